"""A tokenizer written as GGUF metadata: read back with the same ids, by nextword and by llama.cpp, or refused."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from nextword.encode.gguf import tokenizer_from_gguf
from nextword.encode.gguf_write import tokenizer_to_gguf
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import TokenizerError
from nextword.parameters.gguf_write import write_gguf
from tests.encode.samples import CORPUS, SPECIAL, TEXTS, WORDS, byte_level, sentencepiece, spec_of
from tests.encode.test_gguf_tokenizer import byte_level_metadata, sentencepiece_metadata

UNUSED = 5  # rows of an embedding beyond the vocabulary


@functools.cache
def sample(name: str) -> Tokenizer:
    if name == "trained":
        return train_bpe([CORPUS], 500)
    if name == "sentencepiece":
        return tokenizer_from_gguf(sentencepiece_metadata())
    if name == "sentencepiece without a space":
        return tokenizer_from_gguf(sentencepiece_metadata(add_space_prefix=False, add_bos_token=False))
    if name == "both ends":
        return tokenizer_from_gguf(byte_level_metadata(add_bos_token=True, add_eos_token=True))
    return tokenizer_from_gguf(byte_level_metadata(name))


SAMPLES = [
    *("trained", "gpt-2", "olmo", "smollm", "llama-bpe", "qwen2", "default", "both ends"),
    *("sentencepiece", "sentencepiece without a space"),
]


@functools.cache
def metadata(name: str) -> dict[str, Any]:
    tokenizer = sample(name)
    return tokenizer_to_gguf(tokenizer, tokenizer.vocab_size + UNUSED, tokenizer.eos_ids)


@functools.cache
def read_again(name: str) -> Tokenizer:
    return tokenizer_from_gguf(metadata(name))


@pytest.mark.parametrize("name", SAMPLES)
@given(text=TEXTS)
@settings(deadline=None, max_examples=25)
def test_the_ids_are_the_same(name: str, text: str) -> None:
    before, after = sample(name), read_again(name)
    assert after.encode(text, begin=True) == before.encode(text, begin=True)
    assert after.encode(text, special=True) == before.encode(text, special=True)


@pytest.mark.parametrize("name", SAMPLES)
def test_special_tokens_and_the_template_are_the_same(name: str) -> None:
    before, after = sample(name), read_again(name)
    for what in ("vocab_size", "bos_id", "eos_ids", "special_ids", "chat_template"):
        assert getattr(after, what) == getattr(before, what)


@pytest.mark.parametrize("name", ["trained", "smollm", "llama-bpe", "sentencepiece", "sentencepiece without a space"])
def test_llama_cpps_ids_are_the_same(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is an optional referee: nextword[peers]")
    write_gguf(tmp_path / "vocabulary.gguf", {"general.architecture": "llama", **metadata(name)}, [])
    model = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    draw = random.Random(1)
    for text in ["", " ", CORPUS, *("".join(draw.choices(WORDS, k=draw.randrange(1, 12))) for _ in range(200))]:
        assert model.tokenize(text.encode(), add_bos=True) == sample(name).encode(text, begin=True), text
    model.close()


def test_two_ids_end_a_text_those_with_a_name_first() -> None:
    tokenizer = train_bpe([CORPUS], 300, special=SPECIAL)
    written = tokenizer_to_gguf(tokenizer, 300, {0, 1, 2})
    assert (written["tokenizer.ggml.eos_token_id"], written["tokenizer.ggml.eot_token_id"]) == (0, 1)
    assert "tokenizer.ggml.eot_token_id" not in tokenizer_to_gguf(tokenizer, 300, {0})


def changed(tokenizer: Tokenizer, key: str, value: Any) -> Tokenizer:
    return Tokenizer(spec_of(tokenizer) | {key: value})


def beside() -> Tokenizer:
    spec = spec_of(byte_level())
    spec["added_tokens"][0]["lstrip"] = True
    return Tokenizer(spec)


SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
SPELL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
REFUSED = {
    "a pattern without a name": (
        changed(byte_level(), "pre_tokenizer", {"type": "Sequence", "pretokenizers": [SPLIT, SPELL]}),
        "no name",
    ),
    "a space before the text": (
        changed(byte_level(), "pre_tokenizer", {**SPELL, "add_prefix_space": True, "use_regex": True}),
        "patterns alone",
    ),
    "lower case": (changed(byte_level(), "normalizer", {"type": "Lowercase"}), "rewrites"),
    "a token that takes spaces": (beside(), "stands beside"),
    "merges that scores do not give": (sentencepiece(), "scores"),
    "spaces marked later": (
        changed(
            sentencepiece(),
            "pre_tokenizer",
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        ),
        "spaces",
    ),
}


@pytest.mark.parametrize(("tokenizer", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_the_format_has_no_words_for_is_refused(tokenizer: Tokenizer, reason: str) -> None:
    with pytest.raises(TokenizerError, match=f"{reason}.*export it to hf"):
        tokenizer_to_gguf(tokenizer, tokenizer.vocab_size, ())


NAMED = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[0]}


def test_merges_may_be_written_in_one_word() -> None:
    spec = spec_of(byte_level())
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    size = byte_level().vocab_size
    merges = "tokenizer.ggml.merges"
    assert tokenizer_to_gguf(Tokenizer(spec, NAMED), size, ())[merges] == metadata_of_samples()[merges]


def metadata_of_samples() -> dict[str, Any]:
    return tokenizer_to_gguf(byte_level(), byte_level().vocab_size, ())


def test_the_template_is_written() -> None:
    tokenizer = Tokenizer(spec_of(byte_level()), {**NAMED, "chat_template": "{{ messages }}"})
    assert tokenizer_to_gguf(tokenizer, 600, ())["tokenizer.chat_template"] == "{{ messages }}"
