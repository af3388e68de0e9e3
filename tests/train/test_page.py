"""The run page: one inert, self-contained, small and readable file, whatever the run's files hold."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextword.errors import CorruptFile
from nextword.train.page.charts import Axis, around, dots, line, smoothed, steps
from nextword.train.page.page import _resource, count, duration, figure, render, size, write_page

VOID = {"meta", "input", "br", "hr", "img", "link"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Walk(HTMLParser):
    """Checks that every tag is closed in order; collects tags, their attributes, and the text outside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def a_card(**changes: Any) -> dict[str, Any]:
    card = {
        "nextword": "0.1.0",
        "seed": 0,
        "parameters": 1_836_224,
        "floor_bits_per_byte": 0.3,
        "recipe": {
            "type": "Recipe",
            "architecture": {"type": "Architecture", "width": 64, "windows": [None]},
            "steps": 60,
        },
        "budget": {"minutes": 1.0},
        "machine": {"cores": 2},
        "corpus": {
            "paths": ["world:pantry"],
            "documents": 100,
            "bytes": 20_000,
            "duplicates": 3,
            "duplicate_bytes": 600,
            "train": {"documents": 95, "tokens": 5_000, "bytes": 19_000},
            "heldout": {"documents": 2, "tokens": 100, "bytes": 400},
        },
        "forecast": {"bits_per_byte": 0.33, "seconds": 60, "memory_bytes": 2e8, "steps": 60},
        "results": {"bits_per_byte": 0.33, "seconds": 58.0, "memory_bytes": 2.1e8, "steps": 50, "tokens": 50_000},
    }
    return {**card, **changes}


def a_log(n: int = 50) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = []
    for step in range(1, n + 1):
        bits = 0.3 + 2 / step
        log.append(
            {
                "step": step,
                "loss": 3 * bits,
                "bits_per_byte": bits,
                "tokens": 1000 * step,
                "lr_scale": 1.0,
                "tokens_per_second": 9e3,
            }
        )
        if step % 10 == 0:
            log.append({"step": step, "heldout_bits_per_byte": bits, "heldout_tokens": 100})
            log.append({"step": step, "sample": {"prompt": "Ann", "text": f" saw {step} pies"}})
            log.append({"step": step, "norms": {"embed.weight": 0.1, "blocks.0.mlp.up.weight": 0.02 * step}})
    return [*log, {"step": 20, "ends_after": 50}, {"step": 30, "resumed": True}]


def test_a_finished_run_is_told_in_words_and_charts() -> None:
    page = Walk(render(a_card(), a_log()))
    for words in (
        "In 58 seconds, a model with 1.84 million weights learned to predict pantry.",
        "0.330 bits per byte",
        "1/24 of its size",
        "10.0 % above it",
        "saw 40 pies",
        "as forecast",
        "16.7 % less",
        "mlp.up",
        "10.0 times over",
        "from 60 to 50 steps",
        "interrupted and resumed",
        "exact duplicates",
    ):
        assert words in re.sub(r"\s+", " ", page.text), words


def test_a_run_that_ended_at_its_target_was_not_forecast_wrongly() -> None:
    card = a_card(budget={"minutes": 1.0, "until": 0.35})
    page = re.sub(r"\s+", " ", Walk(render(card, a_log())).text)
    for words in ("at most 60 seconds", "at most 60", "ended at its target"):
        assert words in page, words
    assert "% less" not in page
    missed = re.sub(r"\s+", " ", Walk(render(a_card(budget={"minutes": 1.0, "until": 0.3}), a_log())).text)
    assert "ended at its target" not in missed
    assert "16.7 % less" in missed


@pytest.mark.parametrize(
    ("card", "beginning"),
    [
        (a_card(), "random numbers"),
        (a_card(recipe={"init": "bigrams"}), "the bigrams of its text, counted"),
        (a_card(**{"from": {"model": "tales"}}), "the weights of tales"),
    ],
)
def test_it_says_what_the_run_began_with(card: dict[str, Any], beginning: str) -> None:
    assert f"It began with {beginning} and has read" in Walk(render(card, a_log())).text


def test_a_model_that_went_on_is_compared_with_what_it_was() -> None:
    page = Walk(render(a_card(**{"from": {"model": "tales", "bits_per_byte": 1.4502}}), a_log())).text
    assert re.search(r"As it was before\s*1\.45", page)
    assert "At the first step" not in page


def test_it_says_that_only_answers_count_where_there_are_conversations() -> None:
    card = a_card()
    assert "only the answers" not in Walk(render(card, a_log())).text
    card["corpus"]["train"]["counted"] = 1_234
    assert "only the answers are learned and measured; they are 1,234 of" in Walk(render(card, a_log())).text


def test_a_run_of_one_step_has_no_empty_charts() -> None:
    html = render(a_card(), a_log(1))
    assert not [attributes for tag, attributes in Walk(html).tags if tag == "svg" and attributes.get("role") == "img"]
    assert "How it learned" not in html


def test_charts_are_named_for_those_who_do_not_see_them() -> None:
    html = render(a_card(), a_log())
    charts = [attributes for tag, attributes in Walk(html).tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(charts) == 3 * 3 + 2
    assert all(chart["aria-label"] for chart in charts)
    assert html.count("<desc>") == len(charts)
    assert "2.30 at the first step to 0.330 after 50 steps" in html


def test_nothing_is_asked_for_from_elsewhere() -> None:
    html = render(a_card(), a_log())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=", html)
    assert "default-src 'none'" in html


@pytest.mark.parametrize("where", ["sample", "prompt", "path", "matrix", "setting"])
def test_what_the_files_hold_is_text_and_never_markup(where: str) -> None:
    log = a_log()
    card = a_card()
    match where:
        case "sample" | "prompt":
            log.append({"step": 3, "sample": {"prompt": "", "text": "", "text" if where == "sample" else where: EVIL}})
        case "path":
            card["corpus"]["paths"] = [EVIL]
        case "matrix":
            log += [{"step": step, "norms": {EVIL: 1.0}} for step in (3, 4)]
        case "setting":
            card["machine"] = {EVIL: EVIL}
    page, plain = Walk(render(card, log)), Walk(render(a_card(), a_log()))
    assert EVIL in page.text
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_characters_that_a_page_cannot_hold_become_symbols() -> None:
    html = render(a_card(), [*a_log(), {"step": 3, "sample": {"prompt": "", "text": "a\x00b\x1bc\ud800d"}}])
    assert "a\u2400b\u241bc\ufffdd" in html
    html.encode()


@pytest.mark.parametrize(
    "log",
    [
        [],
        a_log(1),
        [{"step": 1, "bits_per_byte": math.nan}, {"step": 2, "bits_per_byte": math.inf, "norms": {"a": math.nan}}],
        [{"step": 4, "heldout_bits_per_byte": 2.0}],
        [{"step": 1, "bits_per_byte": 0.0, "lr_scale": 0, "tokens_per_second": 0}],
        [{"step": "x"}, {"loss": 1}, {"step": 10**400, "bits_per_byte": 1}, {"step": 1, "sample": None, "norms": [1]}],
    ],
)
@pytest.mark.parametrize("card", [{}, a_card(results=None), a_card(), {"corpus": None, "recipe": [], "results": {}}])
def test_shows_what_is_there(card: dict[str, Any], log: list[dict[str, Any]]) -> None:
    page = Walk(render(card, log))
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_an_unfinished_run_says_so() -> None:
    text = Walk(render(a_card(results=None), a_log(15))).text
    assert "not finished" in text
    assert "Step 30 of 50" in text  # the log of this test holds something about step 30
    assert "not yet" in text
    assert "about to learn" in Walk(render(a_card(results=None), [])).text


def test_a_long_run_makes_a_small_page() -> None:
    def log() -> Any:
        names = [
            f"blocks.{layer}.{kind}.weight" for layer in range(48) for kind in ("mlp.up", "mlp.down", "attention.key")
        ]
        for step in range(50, 1_000_001, 50):
            yield {
                "step": step,
                "bits_per_byte": 1 + math.sin(step) / 9,
                "tokens": step,
                "lr_scale": 1.0,
                "tokens_per_second": 9e3,
            }
            if step % 5_000 == 0:
                yield {"step": step, "heldout_bits_per_byte": 1.1}
                yield {"step": step, "sample": {"prompt": "p" * 5000, "text": "<" * 5000}}
                yield {"step": step, "norms": dict.fromkeys(names, step / 1000000.0)}
                yield {"step": step, "ends_after": 1_000_000 + step}

    html = render(a_card(results=None), log())
    assert len(html.encode()) < 500_000
    assert "12 of 200 are shown" in html


def test_the_page_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(a_card(results=None)))
    assert "about to learn" in write_page(tmp_path).read_text("utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in a_log())
    (tmp_path / "log.jsonl").write_text(lines + '[1]\n{"step": 51, "bits_per')
    page = write_page(tmp_path)
    assert page == tmp_path / "page.html"
    assert page.read_text("utf-8") == render(a_card(results=None), a_log())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "log.jsonl", "page.html"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_card_is_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"card\.json"):
        write_page(tmp_path)


def test_text_and_lines_stand_out_from_the_paper() -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for lines that carry meaning, in light and in dark."""
    palettes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", _resource("css"), re.S)
    ]
    assert len(palettes) == 2
    for palette in palettes:
        for colour in ("ink", "muted", "accent"):
            assert contrast(palette[colour], palette["paper"]) >= 4.5, colour


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_needs_no_torch() -> None:
    statement = "import sys, nextword.train.page.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", statement]).returncode == 0


@given(st.lists(st.floats(-1e18, 1e18), min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_its_ticks_ascend(values: list[float]) -> None:
    axis = around(values)
    room = 1e-6 * max(1.0, *map(abs, values))
    assert axis.low <= min(values) + room
    assert axis.high >= max(values) - room
    ticks = axis.ticks(4)
    assert len(ticks) <= 12
    assert all(a < b for a, b in pairwise(ticks))


def test_an_axis_of_factors() -> None:
    axis = Axis(1, 1000, log=True)
    assert [axis.at(value) for value in (0, 1, 1000, 5000)] == [0, 0, 1, 1]
    assert axis.at(10) == pytest.approx(1 / 3)
    assert axis.ticks(4) == [1, 10, 100, 1000]
    assert Axis(1, 60, log=True).ticks(4) == [1, 2, 5, 10, 20, 50]


def test_paths() -> None:
    x, y = Axis(0, 10), Axis(0, 1)
    assert line([(0, 0), (10, 1)], x, y) == "M0 1000L1000 0"
    assert steps([(0, 0.5), (0, 1), (0, 0.7), (10, 0)], x, y) == "M0 0L0 500L1000 1000"
    assert dots([(5, 0.5)], x, y) == "M500 500h0"
    assert line([], x, y) == ""
    assert smoothed([(1, 4.0), (100, 1.0), (102, 3.0)]) == [(1, 4.0), (100, 2.0), (102, 2.0)]


def test_numbers_in_words() -> None:
    assert [count(n) for n in (0, 9_830, 1_836_224, 2.5e9)] == ["0", "9,830", "1.84 million", "2.5 billion"]
    assert [duration(s) for s in (1, 58.3, 90, 900, 7200, 200_000)] == [
        "1 second",
        "58 seconds",
        "90 seconds",
        "15 minutes",
        "2 hours",
        "2.3 days",
    ]
    assert [figure(x) for x in (0.29547, 2.1, 12.34, 123.4)] == ["0.295", "2.10", "12.3", "123"]
    assert [size(n) for n in (512, 4_000_049, 538e6)] == ["512 bytes", "4.0 MB", "538 MB"]
