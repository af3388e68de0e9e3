from __future__ import annotations

import functools
import random
import unicodedata

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode.bytelevel import GPT2, QWEN2
from nextword.encode.reference import BytePairEncoding, pretokenize, train
from nextword.errors import InputError, UnknownToken
from tests.encode.samples import CORPUS, TEXTS


@functools.cache
def learned() -> BytePairEncoding:
    return train(CORPUS, 400)


@functools.cache
def referee(pattern: str) -> tiktoken.Encoding:
    return tiktoken.Encoding("learned", pat_str=pattern, mergeable_ranks=dict(learned().ranks), special_tokens={})


def is_old(text: str) -> bool:
    """All characters were assigned when Python 3.11 was made; engines disagree about younger ones."""
    return all(unicodedata.category(char) != "Cn" for char in text)


@given(st.binary(max_size=80) | TEXTS.map(str.encode))
@settings(deadline=None, max_examples=120)
def test_any_bytes_survive(data: bytes) -> None:
    assert learned().decode_bytes(learned().encode_bytes(data)) == data


@given(TEXTS)
@settings(deadline=None, max_examples=120)
def test_any_text_survives_and_is_its_bytes(text: str) -> None:
    ids = learned().encode(text)
    assert ids == learned().encode_bytes(text.encode())
    assert learned().decode(ids) == text


@pytest.mark.parametrize("pattern", [GPT2, QWEN2])
@given(text=TEXTS.filter(is_old))
@settings(deadline=None, max_examples=100)
def test_ids_are_those_of_tiktoken(pattern: str, text: str) -> None:
    definition = BytePairEncoding(learned().ranks, pattern)
    assert definition.encode(text) == referee(pattern).encode_ordinary(text)


def test_bytes_that_are_no_text_are_cut_where_tiktoken_merges_them() -> None:
    data = b"the apple\xff\xfe pie \xe2\x82"
    merged = [id for piece in pretokenize(data, QWEN2) for id in referee(QWEN2)._encode_single_piece(piece)]
    assert learned().encode_bytes(data) == merged


def test_the_most_frequent_pair_is_learned_first() -> None:
    learned = train("abab cd abx", 258, pattern=r"\S+")
    assert {token for token in learned.ranks if len(token) > 1} == {b"ab"}
    assert learned.encode("abx") == [learned.ranks[b"ab"], learned.ranks[b"x"]]


def test_the_lowest_rank_then_the_leftmost_is_merged_first() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"aa": 258, b"abcd": 259}
    encoding = BytePairEncoding(ranks, r"(?s).+")
    assert encoding.encode("abc") == [ranks[b"a"], 256]
    assert encoding.encode("aaa") == [258, ranks[b"a"]]
    assert encoding.encode("abcd") == [259]  # itself a token, although merging "bc" first would not lead there


def test_learning_needs_room_for_the_bytes() -> None:
    with pytest.raises(InputError, match="256"):
        train(CORPUS, 255)
    assert len(train("", 1000).ranks) == 256


def test_what_is_not_text_and_what_is_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="surrogate"):
        learned().encode("a\ud800")
    with pytest.raises(UnknownToken, match="400"):
        learned().decode([1, 400])


def test_a_long_run_is_encoded() -> None:
    text = "a" * 2_000 + "".join(random.Random(0).choices("ab ", k=500))
    assert learned().encode(text) == referee(QWEN2).encode_ordinary(text)
