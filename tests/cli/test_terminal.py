"""What people see: wrapped at words, aligned, readable without colour, and never steered by the text."""

from __future__ import annotations

import io
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from nextword.base.text import size
from nextword.cli import terminal
from nextword.sample.results import NextToken

WIDTH = 20


def console(width: int = WIDTH, *, encoding: str = "utf-8", colour: bool = False) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    system = "truecolor" if colour else None
    return Console(
        file=file, width=width, force_terminal=True, color_system=system, highlight=False, markup=False, _environ={}
    )


def raw(shown: Console) -> str:
    shown.file.flush()
    return shown.file.buffer.getvalue().decode(shown.encoding)  # type: ignore[attr-defined]


def screen(shown: Console) -> list[str]:
    """The lines as a terminal that knows only these few sequences shows them."""
    lines, column = [""], 0
    for code, letter, char in re.findall(r"\x1b\[([\d;?]*)([A-Za-z])|([\s\S])", raw(shown)):
        if letter == "D":
            column -= int(code)
        elif letter == "K":
            lines[-1] = "" if code == "2" else lines[-1][:column]
        elif char == "\n":
            lines, column = [*lines, ""], 0
        elif char == "\r":
            column = 0
        elif char:
            lines[-1], column = lines[-1][:column] + char, column + 1
        else:
            assert letter in "mhlA", letter  # colours, the cursor shown or not, up to a spinner that ended
    return lines


def streamed(monkeypatch: pytest.MonkeyPatch, pieces: list[str], style: str | None = None) -> list[str]:
    there = console()
    monkeypatch.setattr(terminal, "output", lambda: there)
    stream = terminal.TextStream()
    for piece in pieces:
        stream.write(piece, style)
    return screen(there)


TEXT = "It didn't matter whether unbelievably or incomprehensibly, the cat\nsat, on the mat."
WRAPPED = ["It didn't matter", "whether", "unbelievably or", "incomprehensibly,", "the cat", "sat, on the mat."]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("style", [None, "black on #ffffb2"])
def test_a_stream_wraps_at_words_wherever_tokens_end(
    monkeypatch: pytest.MonkeyPatch, size: int, style: str | None
) -> None:
    pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    assert [line.rstrip() for line in streamed(monkeypatch, pieces, style)] == WRAPPED


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab \n", max_size=30), max_size=10))
def test_a_stream_loses_no_word(pieces: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        lines = streamed(monkeypatch, pieces)
    text = "".join(pieces)
    if max(map(len, text.split()), default=0) < WIDTH:
        assert " ".join(lines).split() == text.split()
        assert max(map(len, lines)) < WIDTH
    else:
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_text_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert streamed(monkeypatch, ["a\x1b[2Jb\x07\r\x9b"]) == ["a␛[2Jb␇␍\ufffd"]
    assert terminal.visible("a\t \x00\n") == "a⇥·␀↵"


def test_chips_stand_over_their_figures() -> None:
    there = console()
    terminal.chips(there, ["Hello", " world", "!", "猫" * 20], ["15496", "995", "0", "7"], [""] * 4)
    lines = screen(there)
    assert lines[:2] == ["Hello ·world !", "15496 995    0"]
    assert lines[3].split() == ["猫" * 9, "…"]
    assert lines[4] == "7"
    empty = console()
    terminal.chips(empty, [], [], [])
    assert raw(empty) == ""


def test_surprisal_is_written_as_well_as_coloured() -> None:
    there = console(colour=True)
    terminal.surprisals(there, ["a", "b", "c"], [None, -0.1, -2000.0])
    assert screen(there)[:2] == ["a b   c", "- 0.1 2885.4"]
    assert terminal.surprisal(0.9) != terminal.surprisal(0.1) != terminal.surprisal(0.0)
    assert terminal.surprisal(0.0) == terminal.surprisal(1e-9)


ROWS = [
    NextToken(1, " pie", 2.0, 0.5, 0.8, None),
    NextToken(2, " antidisestablishmentarianism", 1.0, 0.125, 0.2, None),
    NextToken(3, "\n", 0.5, 0.05, 0.0, "top_k"),
]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("filtered", [False, True])
def test_probabilities_fit_the_width_and_are_aligned(width: int, filtered: bool) -> None:
    there = console(width)
    terminal.probabilities(there, ROWS, filtered)
    lines = screen(there)[:-1]
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= width
    assert len({line.index("%") for line in lines}) == 1
    bars = [line.count("█") for line in lines]
    assert bars[0] > 0
    assert bars[1] == bars[0] // 4
    assert bars[2] == 0
    assert lines[2].endswith("removed by top_k")
    assert ("→  80.00%" in lines[0]) == filtered


def test_bars_have_a_plain_form() -> None:
    there = console(40, encoding="latin-1")
    terminal.probabilities(there, ROWS[:1], filtered=False)
    assert set(screen(there)[0].split()[-1]) == {"#"}


def test_sizes() -> None:
    assert size(92_871_040) == "92.9 MB"
    assert size(1.5e9) == "1.5 GB"


def shared_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> Console:
    """From now on all consoles are on the terminal that this one shows."""
    shown = console(width)
    monkeypatch.setattr(
        terminal, "Console", lambda **given: Console(file=shown.file, width=width, force_terminal=True, _environ={})
    )
    return shown


def test_samples_stand_above_the_bar_and_the_time_left_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shared_terminal(monkeypatch, 60)
    with terminal.training_bar() as show:
        show(1, 5, "0.937 bits/byte, held out 0.954, 31,337 tokens/s, 20% MFU")
        terminal.sample(1, "Once upon a time.")
    lines = [line.rstrip() for line in screen(shown)]
    assert "step 1  Once upon a time." in lines
    assert any(line.endswith("-:--:--") for line in lines)


def test_a_pipe_gets_a_line_about_work_once_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.working() as on_progress:
        on_progress("reading")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(terminal, "_SILENCE", 0.01)
    with terminal.working() as on_progress:
        for stage in ("learning a tokenizer", "writing"):
            on_progress(stage)
            time.sleep(0.5)  # no other stage meanwhile, as in work that reports nothing
    assert capsys.readouterr().err == "learning a tokenizer\nwriting\n"


def test_the_stage_of_work_stands_beside_a_spinner_and_notes_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shared_terminal(monkeypatch, 60)
    with terminal.working() as on_progress:
        on_progress("reading \x1b[31m")
        terminal.note("Read 3 documents.")
    assert "Read 3 documents." in [line.rstrip() for line in screen(shown)]
    assert "reading ␛[31m" in raw(shown)
