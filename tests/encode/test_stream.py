from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.encode.samples import TEXTS, byte_level, sentencepiece

kinds = pytest.mark.parametrize("kind", [byte_level, sentencepiece])


@kinds
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_the_stream_is_the_whole_text_in_parts(kind: Any, data: st.DataObject) -> None:
    tokenizer = kind()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=25))
    for skip in (False, True):
        stream = tokenizer.stream(skip_special=skip)
        assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids, skip_special=skip)


@kinds
@given(text=TEXTS)
@settings(deadline=None, max_examples=40)
def test_no_half_character_is_ever_shown(kind: Any, text: str) -> None:
    ids = kind().encode(text)
    stream, shown = kind().stream(), ""
    for count, id in enumerate(ids, 1):
        shown += stream.push(id)
        whole = kind().decode_bytes(ids[:count])
        assert shown == whole.decode("utf-8", "ignore")  # all that is certain, and nothing else
    assert stream.flush() == ""


def test_a_character_is_held_back_until_it_is_whole() -> None:
    ids = byte_level().encode("𝄞!")
    stream = byte_level().stream()
    assert [stream.push(id) for id in ids] == ["", "", "", "𝄞", "!"]
    assert stream.flush() == ""


def test_what_cannot_become_a_character_is_shown_at_once() -> None:
    first, *_ = byte_level().encode("𝄞")
    stream = byte_level().stream()
    assert [stream.push(first), stream.push(byte_level().encode("a")[0])] == ["", "\ufffda"]
    assert [stream.push(first), stream.flush()] == ["", "\ufffd"]


def test_a_continued_prompt_keeps_its_space() -> None:
    prompt, after = sentencepiece().encode("the"), sentencepiece().encode("apple")
    stream = sentencepiece().stream()
    assert "".join(map(stream.push, prompt)) == "the"
    assert "".join(map(stream.push, after)) == " apple"


def test_the_space_before_the_text_is_taken_away_once_even_after_a_special_token() -> None:
    ids = sentencepiece().encode("  the", begin=True)
    stream = sentencepiece().stream(skip_special=True)
    assert "".join(map(stream.push, ids)) == sentencepiece().decode(ids, skip_special=True) == "  the"
