"""Leave one out: each probability is that of the shorter text read on its own; words are cut where a reader would."""

from __future__ import annotations

import pytest

import nextword
from nextword.trace.receipt.leave_one_out import leave_one_out, word_spans


def test_each_probability_is_that_of_the_shorter_text() -> None:
    gpt = nextword.open("tales")
    ids = gpt.tokenizer.encode_prompt("The king had three sons, and the youngest")
    spans = word_spans([b"", *(gpt.tokenizer.token_bytes(id) for id in ids[1:])])
    assert [gpt.tokenizer.decode(ids[start:stop]).strip() for start, stop in spans] == [
        *"The king had three sons".split(),
        ",",
        *"and the youngest".split(),
    ]
    token = gpt.predict(ids).distribution.logits.argmax()
    for found in leave_one_out(gpt.engine, ids, int(token), spans, gpt.tokenizer.vocab_size):
        alone = gpt.predict([*ids[: found.start], *ids[found.stop :]]).row(int(token))
        assert found.probability == pytest.approx(alone.probability, rel=1e-6)


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [
        ([b"", b"un", b"believ", b"able", b" king"], [(1, 4), (4, 5)]),
        ([b"it", b"'", b"s", b"\n", b"\n", b"x"], [(0, 1), (1, 2), (2, 3), (5, 6)]),
        ([b"Stra", "ß".encode(), b"e"], [(0, 3)]),
        (["漢".encode(), "字".encode()], [(0, 1), (1, 2)]),
        ([b" ", "👋".encode()[:2], "👋".encode()[2:]], [(1, 3)]),
        ([b"", b" "], []),
    ],
)
def test_words_are_cut_where_a_reader_would(pieces: list[bytes], cut: list[tuple[int, int]]) -> None:
    assert word_spans(pieces) == cut
