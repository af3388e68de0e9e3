from __future__ import annotations

import sys
from typing import Any

import gigatoken
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode import bulk
from nextword.encode.bulk import BulkEncoder, encode_bulk
from nextword.encode.bytelevel import CL100K
from nextword.encode.openai import openai_encoding
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from tests.encode.samples import CORPUS, SPECIAL, TEXTS, byte_level, sentencepiece, spec_of

BYTE_LEVEL = BulkEncoder(byte_level())
SENTENCEPIECE = BulkEncoder(sentencepiece())
GPT2 = BulkEncoder(openai_encoding("r50k_base"))


@pytest.mark.parametrize("encoder", [BYTE_LEVEL, SENTENCEPIECE, GPT2], ids=["trained", "sentencepiece", "gpt2"])
@given(texts=st.lists(TEXTS, max_size=5))
@settings(deadline=None, max_examples=50)
def test_ids_are_those_of_encode(encoder: BulkEncoder, texts: list[str]) -> None:
    found = encoder.encode(texts)
    assert [ids.tolist() for ids in found] == [encoder._tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in found)


def test_gigatoken_does_the_work_where_it_can() -> None:
    assert BYTE_LEVEL.engine == GPT2.engine == "gigatoken"


def test_special_tokens_in_a_corpus_are_text() -> None:
    (ids,) = encode_bulk(byte_level(), ["".join(SPECIAL)])
    assert byte_level().special_ids.isdisjoint(ids.tolist())
    assert byte_level().decode(ids.tolist()) == "".join(SPECIAL)


def test_a_pattern_that_gigatoken_does_not_know_goes_to_tokenizers() -> None:
    spec = spec_of(byte_level())
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": CL100K}
    encoder = BulkEncoder(Tokenizer(spec))
    assert encoder.engine == "tokenizers"
    assert [ids.tolist() for ids in encoder.encode([CORPUS, ""])] == [Tokenizer(spec).encode(CORPUS), []]


class Wrong:
    """A gigatoken that is wrong about one character, or breaks."""

    def __init__(self, right: Any, trap: bytes) -> None:
        self.right, self.trap = right, trap

    def encode_batch(self, texts: list[bytes]) -> Any:
        return self.right.encode_batch([text.replace(self.trap, b"?") for text in texts])


@pytest.mark.parametrize("trap", ["\u017f", "ꙮ"])  # in the probes; only in the corpus
def test_wrong_ids_are_found_out(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gigatoken.Tokenizer.from_json(byte_level().without_special())
    monkeypatch.setattr(bulk, "_gigatoken", lambda tokenizer: Wrong(right, trap.encode()))
    encoder = BulkEncoder(byte_level())
    assert encoder.engine == ("tokenizers" if trap == "\u017f" else "gigatoken")
    texts = [CORPUS, f"a {trap}"]
    assert [ids.tolist() for ids in encoder.encode(texts)] == [byte_level().encode(text) for text in texts]


def test_without_gigatoken_tokenizers_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder = BulkEncoder(byte_level())
    assert encoder.engine == "tokenizers"
    assert encoder.encode([CORPUS])[0].tolist() == byte_level().encode(CORPUS)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(InputError, match="surrogate"):
        encode_bulk(byte_level(), ["fine", "\udfff"])


def test_long_texts_of_one_character() -> None:
    texts = ["a" * 200_000, " " * 100_000, "\n" * 100_000]
    assert [ids.tolist() for ids in BYTE_LEVEL.encode(texts)] == [byte_level().encode(text) for text in texts]
