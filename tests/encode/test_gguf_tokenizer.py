from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from nextword.encode.bytelevel import GPT2, LLAMA3, QWEN2
from nextword.encode.gguf import tokenizer_from_gguf
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import TokenizerError
from tests.encode.samples import CORPUS, SPECIAL, TEXTS, byte_level, sentencepiece, sentencepiece_backend, spec_of

CONTROL, USER_DEFINED, UNKNOWN, BYTE = 3, 4, 2, 6


def byte_level_metadata(pre: str = "gpt-2", **changes: Any) -> dict[str, Any]:
    """What a converter writes for the byte-level tokenizer of the samples; None takes a key out."""
    spec = spec_of(byte_level())
    vocab = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*vocab, "<tool>"],
        "tokenizer.ggml.token_type": [*(CONTROL if token in SPECIAL else 1 for token in vocab), USER_DEFINED],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 0,
        "tokenizer.chat_template": "{{ messages }}",
    }
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    model = spec_of(sentencepiece())["model"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    rank = {"".join(pair): place for place, pair in reversed(list(enumerate(model["merges"])))}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.scores": [-float(rank.get(token, 0)) for token in vocab],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[1] * (len(vocab) - 259)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


PUBLISHED = {  # how the Hugging Face files of these models cut a text
    "gpt-2": (None, [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "olmo": (normalizers.NFC(), [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "smollm": (None, [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": (None, [split(LLAMA3), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "qwen2": (normalizers.NFC(), [split(QWEN2), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "default": (
        None,
        [
            *map(split, (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
    ),
}


@functools.cache
def published(pre: str) -> tokenizers.Tokenizer:
    spec = spec_of(byte_level())
    spec["model"]["ignore_merges"] = pre == "llama-bpe"
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    backend.add_tokens(["<tool>"])
    normalizer, steps = PUBLISHED[pre]
    if normalizer:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return backend


@functools.cache
def ours(pre: str) -> Tokenizer:
    return tokenizer_from_gguf(byte_level_metadata(pre))


@pytest.mark.parametrize("pre", PUBLISHED)
@given(text=TEXTS | TEXTS.map(lambda text: f"1234 <tool>{text}"))
@settings(deadline=None, max_examples=50)
def test_byte_level_ids_are_those_of_the_published_tokenizer(pre: str, text: str) -> None:
    assert ours(pre).encode(text, special=True) == published(pre).encode(text, add_special_tokens=False).ids


@given(text=TEXTS)
@settings(deadline=None, max_examples=80)
def test_sentencepiece_ids_are_those_of_the_tokenizer_it_was_made_from(text: str) -> None:
    tokenizer = tokenizer_from_gguf(sentencepiece_metadata())
    assert tokenizer.encode(text, special=True, begin=True) == sentencepiece_backend().encode(text).ids
    assert tokenizer.encode(text) == sentencepiece().encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


def test_runs_of_equal_score_grow_from_the_left() -> None:
    """As in SentencePiece and llama.cpp: 17 spaces are a run of 16 and one more, not 8 and 9."""
    metadata = sentencepiece_metadata(add_space_prefix=False)
    known = set(metadata["tokenizer.ggml.tokens"])
    runs = [run for run in ("▁" * length for length in range(2, 17)) if run not in known]
    metadata["tokenizer.ggml.tokens"] += runs
    metadata["tokenizer.ggml.token_type"] += [1] * len(runs)
    metadata["tokenizer.ggml.scores"] += [0.0] * len(runs)
    for token, place in zip(metadata["tokenizer.ggml.tokens"], range(10**6), strict=False):
        if set(token) == {"▁"} and len(token) > 1:
            metadata["tokenizer.ggml.scores"][place] = 0.0
    tokenizer = tokenizer_from_gguf(metadata)
    assert [len(tokenizer.token_bytes(id)) for id in tokenizer.encode(" " * 17)] == [16, 1]
    assert [len(tokenizer.token_bytes(id)) for id in tokenizer.encode(" " * 40)] == [16, 16, 8]


def test_a_space_before_the_text_is_added_only_where_the_file_says_so() -> None:
    with_space = tokenizer_from_gguf(sentencepiece_metadata())
    without = tokenizer_from_gguf(sentencepiece_metadata(add_space_prefix=False))
    assert with_space.encode("the") == without.encode(" the") != without.encode("the")
    for text in ("the", " the", "  the", ""):
        assert with_space.decode(with_space.encode(text)) == without.decode(without.encode(text)) == text


def test_metadata_may_be_numpy() -> None:
    for metadata in (byte_level_metadata(), sentencepiece_metadata()):
        arrays = {key: np.array(value) if isinstance(value, list) else value for key, value in metadata.items()}
        arrays["tokenizer.ggml.eos_token_id"] = np.uint32(2)
        assert tokenizer_from_gguf(arrays).hash == tokenizer_from_gguf(metadata).hash


def test_names_and_special_tokens_are_the_files() -> None:
    tokenizer = tokenizer_from_gguf(byte_level_metadata())
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.special_ids) == (1, {0, 2}, {0, 1, 2})
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.encode(SPECIAL[1]) == byte_level().encode(SPECIAL[1])
    assert tokenizer.encode("<tool>") == [tokenizer.vocab_size - 1]
    assert tokenizer_from_gguf(sentencepiece_metadata()).special_ids == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({}, []),
        ({"pre": "llama-bpe"}, [1]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
        ({"add_bos_token": True, "add_eos_token": True}, [1, 2]),
    ],
)
def test_what_stands_around_a_text(changes: dict[str, Any], ids: list[int]) -> None:
    assert tokenizer_from_gguf(byte_level_metadata(**changes)).encode("", begin=True) == ids


def without(token: str) -> list[str]:
    tokens: list[str] = byte_level_metadata()["tokenizer.ggml.tokens"]
    return [f"<was {token}>" if other == token else other for other in tokens]


BAD = {
    "another kind": (byte_level_metadata(model="bert"), "'bert'"),
    "no kind": (byte_level_metadata(model=None), "None"),
    "an unknown way to cut": (byte_level_metadata(pre="made-up-9000"), "'made-up-9000'"),
    "no way to cut": (byte_level_metadata(pre=None), "None"),
    "a way to cut that is no name": (byte_level_metadata(pre=["gpt-2"]), "does not know|not know"),
    "a token twice": (byte_level_metadata(tokens=[*without("a"), "b"]), "twice"),
    "an empty token": (byte_level_metadata(tokens=[*without("a")[:-1], ""]), "empty"),
    "no tokens": (byte_level_metadata(tokens=None), "no tokens"),
    "tokens that are numbers": (byte_level_metadata(tokens=[1, 2]), "tokens"),
    "tokens that are no array": (byte_level_metadata(tokens="abc"), "tokens"),
    "too few kinds": (byte_level_metadata(token_type=[1]), "token_type"),
    "a merge of an unknown token": (byte_level_metadata(merges=["zzz q"]), "zzz q"),
    "a merge into an unknown token": (byte_level_metadata(merges=["z q"]), "z q"),
    "a merge of one": (byte_level_metadata(merges=["ab"]), "'ab'"),
    "an eos outside": (byte_level_metadata(eos_token_id=10**6), "1000000"),
    "a negative bos": (byte_level_metadata(bos_token_id=-1), "-1"),
    "a bos that is no number": (byte_level_metadata(bos_token_id="x"), "'x'"),
    "a bos to add, but none": (byte_level_metadata(bos_token_id=None, add_bos_token=True), "without saying which"),
    "no scores": (sentencepiece_metadata(scores=None), "score"),
    "a score that is no number": (sentencepiece_metadata(scores=[float("nan")] * sentencepiece().vocab_size), "score"),
    "no byte tokens": (
        sentencepiece_metadata(
            tokens=[t.replace("<0x41>", "<byte>") for t in sentencepiece_metadata()["tokenizer.ggml.tokens"]]
        ),
        "<0x41>",
    ),
    "spaces removed": (sentencepiece_metadata(remove_extra_whitespaces=True), "removes spaces"),
}


@pytest.mark.parametrize(("metadata", "reason"), BAD.values(), ids=BAD)
def test_bad_metadata_is_refused_in_one_sentence(metadata: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason) as caught:
        tokenizer_from_gguf(metadata)
    assert "\n" not in str(caught.value)


VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers() | st.text(max_size=2))


@given(data=st.data(), value=VALUES)
@settings(deadline=None, max_examples=50)
def test_damaged_metadata_works_or_is_refused(data: st.DataObject, value: Any) -> None:
    metadata = data.draw(st.sampled_from([byte_level_metadata(), sentencepiece_metadata()]))
    metadata[data.draw(st.sampled_from(sorted(metadata)))] = value
    try:
        tokenizer = tokenizer_from_gguf(metadata)
    except TokenizerError:
        return
    assert len(tokenizer.encode(CORPUS[:50])) > 0
