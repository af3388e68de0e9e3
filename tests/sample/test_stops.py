"""Stop strings: found wherever they are cut, never shown; what is shown is all the text before them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextword.errors import SettingError
from nextword.sample.stops import StopScanner

letters = st.text(alphabet="abX", max_size=30)


def shown(scanner: StopScanner, pieces: list[str]) -> str:
    text = ""
    for piece in pieces:
        text += scanner.push(piece)
        if scanner.stopped is not None:
            return text
    return text + scanner.flush()


@given(st.lists(letters, max_size=12), st.lists(st.text(alphabet="abX", min_size=1, max_size=4), max_size=3))
def test_the_text_is_cut_before_the_stop_string_that_is_complete_first(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    expected = whole[: min(ends)[1]] if ends else whole
    assert shown(StopScanner(stops), pieces) == expected
    assert shown(StopScanner(stops), list(whole)) == expected, "letter by letter"
    assert not any(stop in expected for stop in stops)


def test_what_might_be_a_stop_string_is_held_back_until_it_is_decided() -> None:
    scanner = StopScanner(["</s>"])
    assert [scanner.push(piece) for piece in ("one <", "/s", "ad> two <", "/s", "> three")] == [
        "one ",
        "",
        "</sad> two ",
        "",
        "",
    ]
    assert scanner.stopped == "</s>"


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopScanner([]).push("text") == "text"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(SettingError, match="empty"):
        StopScanner(["a", ""])
