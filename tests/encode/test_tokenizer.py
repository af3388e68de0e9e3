from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode.bytelevel import GPT2, LLAMA3, added_token, byte_level_json
from nextword.encode.tokenizer import Tokenizer, TokenSpan
from nextword.encode.tokenizer_json import around
from nextword.errors import InputError, TokenizerError, UnknownToken
from tests.encode.samples import (
    CORPUS,
    SPECIAL,
    TEXTS,
    byte_level,
    plain_reference,
    reference,
    sentencepiece,
    sentencepiece_backend,
    spec_of,
)

KINDS = [byte_level, sentencepiece]
kinds = pytest.mark.parametrize("kind", KINDS)


def bytes_of(text: str) -> int:
    return len(text.encode())


@kinds
@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_ids_are_those_of_tokenizers(kind: Any, text: str) -> None:
    tokenizer = kind()
    whole, plain = reference(tokenizer), plain_reference(tokenizer)
    assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, special=True) == whole.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, begin=True) == plain.encode(text).ids
    assert tokenizer.encode(text, special=True, begin=True) == whole.encode(text).ids


@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_byte_level_text_survives(text: str) -> None:
    tokenizer = byte_level()
    for special in (False, True):
        ids = tokenizer.encode(text, special=special)
        assert tokenizer.decode(ids) == reference(tokenizer).decode(ids, skip_special_tokens=False) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == tokenizer.decode_bytes(ids) == text.encode()


@given(text=TEXTS.filter(lambda text: "▁" not in text))
@settings(deadline=None, max_examples=60)
def test_sentencepiece_text_survives(text: str) -> None:
    """But for ▁, which this kind cannot tell from a space."""
    ids = sentencepiece().encode(text)
    assert sentencepiece().decode(ids) == sentencepiece_backend().decode(ids) == text
    assert sentencepiece().decode_bytes(ids) == text.encode()
    assert sentencepiece().decode(sentencepiece().encode(text, begin=True), skip_special=True) == text


@given(ids=st.lists(st.integers(0, byte_level().vocab_size - 1), max_size=20))
@settings(deadline=None, max_examples=60)
def test_any_byte_level_ids_decode_as_tokenizers_decodes_them(ids: list[int]) -> None:
    for skip in (False, True):
        expected = reference(byte_level()).decode(ids, skip_special_tokens=skip)
        assert byte_level().decode(ids, skip_special=skip) == expected


@kinds
@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_a_users_text_never_becomes_a_special_token(kind: Any, text: str) -> None:
    tokenizer = kind()
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text))
    assert tokenizer.special_ids.isdisjoint(piece.id for piece in tokenizer.encode_with_offsets(text))


def test_not_even_where_a_special_token_is_a_whole_piece() -> None:
    """Llama 3's rule takes a whole piece that is in the vocabulary, and special tokens are in it."""
    spec = spec_of(byte_level())
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"]["STOP"] = 600
    spec["added_tokens"].append(added_token("STOP", 600, special=True))
    tokenizer = Tokenizer(spec)
    assert tokenizer.encode("STOP", special=True) == [600]
    assert 600 not in tokenizer.encode("STOP")
    assert tokenizer.decode(tokenizer.encode("STOP")) == "STOP"


@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_byte_level_offsets_are_those_of_tokenizers_and_tile_the_text(text: str) -> None:
    tokenizer = byte_level()
    encoding = plain_reference(tokenizer).encode(text, add_special_tokens=False)
    found = tokenizer.encode_with_offsets(text)
    assert [(piece.id, (piece.start, piece.end)) for piece in found] == list(
        zip(encoding.ids, encoding.offsets, strict=True)
    )
    at = 0
    for piece in found:  # what a token stands for is what its bytes say, widened to whole characters
        data, start, end = text.encode(), bytes_of(text[: piece.start]), bytes_of(text[: piece.end])
        width = len(tokenizer.token_bytes(piece.id))
        assert start <= at
        assert at + width <= end
        assert data[at : at + width] == tokenizer.token_bytes(piece.id)
        assert bytes_of(text[: piece.start + 1]) > at
        assert bytes_of(text[: piece.end - 1]) < at + width
        at += width
    assert at == bytes_of(text)


@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_sentencepiece_offsets_are_those_of_tokenizers(text: str) -> None:
    encoding = plain_reference(sentencepiece()).encode(text, add_special_tokens=False)
    found = sentencepiece().encode_with_offsets(text)
    assert found == [TokenSpan(id, *span) for id, span in zip(encoding.ids, encoding.offsets, strict=True)]


def test_offsets_keep_the_space_and_cover_all_of_a_character() -> None:
    tokenizer = byte_level()
    assert [(p.start, p.end) for p in tokenizer.encode_with_offsets("the apple")] == [(0, 3), (3, 9)]
    spans = {(p.start, p.end) for p in tokenizer.encode_with_offsets("a𝄞")}
    assert len(tokenizer.encode("𝄞")) > 1
    assert spans == {(0, 1), (1, 2)}


def test_offsets_keep_the_space_even_where_the_file_trims_it() -> None:
    spec = spec_of(byte_level())
    spec["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    spec["post_processor"] = {"type": "Sequence", "processors": [spec["post_processor"]]}
    trimmed = tokenizers.Tokenizer.from_str(json.dumps(spec)).encode("the apple").offsets
    assert trimmed == [(0, 3), (4, 9)]
    assert Tokenizer(spec).encode_with_offsets("the apple") == byte_level().encode_with_offsets("the apple")


def test_tokens_read_well() -> None:
    tokenizer = byte_level()
    texts = [tokenizer.token_text(id) for id in tokenizer.encode(" the 𝄞", special=True)]
    assert texts == [" the", " ", "\\xf0", "\\x9d", "\\x84", "\\x9e"]
    assert [sentencepiece().token_text(id) for id in sentencepiece().encode("the 𝄞")] == [
        *(" the", " ", "\\xf0", "\\x9d", "\\x84", "\\x9e")
    ]
    assert tokenizer.token_text(tokenizer.encode(SPECIAL[1], special=True)[0]) == SPECIAL[1]


def test_added_tokens_are_text_and_not_spelled_bytes() -> None:
    """Spelled in the byte-level alphabet, "éé" would be the bytes 0xE9 0xE9."""
    spec = spec_of(byte_level())
    spec["added_tokens"] += [added_token("éé", 700, special=False), added_token("   ", 701, special=False)]
    tokenizer = Tokenizer(spec)
    assert tokenizer.encode("éé") == [700]
    assert tokenizer.decode([700, 701]) == "éé   "
    assert tokenizer.token_bytes(700) == "éé".encode()


def test_ids_may_have_holes() -> None:
    """Added tokens keep the ids of the file even where the ids below them are unused."""
    spec = spec_of(byte_level())
    spec["added_tokens"].append(added_token("<far>", 9_000, special=True))
    tokenizer = Tokenizer(spec, {"eos_token": {"content": "<far>"}})
    assert tokenizer.vocab_size == 9_001
    assert tokenizer.eos_ids == {9_000}
    assert tokenizer.encode("<far>", special=True) == [9_000]
    with pytest.raises(UnknownToken, match="8999.*0 to 9000"):
        tokenizer.token_bytes(8_999)


@kinds
@pytest.mark.parametrize("id", [-1, 100_000, 2**70])
def test_unknown_ids_are_refused(kind: Any, id: int) -> None:
    for act in (kind().token_bytes, kind().token_text, kind().stream().push, lambda id: kind().decode([0, id])):
        with pytest.raises(UnknownToken):
            act(id)


@kinds
def test_half_a_surrogate_pair_is_refused(kind: Any) -> None:
    for act in (kind().encode, kind().encode_with_offsets, lambda text: kind().encode_batch(["", text])):
        with pytest.raises(InputError, match="Character 3 .* surrogate"):
            act("abc\udc80")


@kinds
def test_no_text_has_no_ids(kind: Any) -> None:
    assert kind().encode("") == kind().encode_with_offsets("") == []
    assert kind().decode([]) == ""
    assert kind().encode_batch([]) == []


@kinds
@pytest.mark.parametrize("text", ["a" * 300_000, " " * 60_000, "\x00" * 60_000, "中" * 30_000])
def test_long_runs_take_no_quadratic_time(kind: Any, text: str) -> None:
    assert kind().decode(kind().encode(text)) == text


def test_a_megabyte_of_one_character() -> None:
    assert byte_level().decode(byte_level().encode("a" * 1_000_000)) == "a" * 1_000_000


def test_a_character_that_cannot_be_held_is_refused_and_not_dropped() -> None:
    """Vocabularies without all bytes exist: SmolLM2's lacks those of the unassigned planes."""
    spec = spec_of(byte_level())
    merges = [pair for pair in spec["model"]["merges"] if "ñ" not in "".join(pair)]
    vocab = {token: id for token, id in spec["model"]["vocab"].items() if "ñ" not in token}  # ñ spells 0xF1
    tokenizer = Tokenizer({**spec, "model": {**spec["model"], "vocab": vocab, "merges": merges}})
    assert tokenizer.decode(tokenizer.encode("ñ and 🙂")) == "ñ and 🙂"
    with pytest.raises(InputError, match=r"U\+40000"):
        tokenizer.encode("a\U00040000")


def test_threads_may_share_a_tokenizer() -> None:
    tokenizer = Tokenizer(spec_of(byte_level()))
    random_texts = random.Random(0)
    texts = ["".join(random_texts.choices([*SPECIAL, "a", " the ", "中"], k=9)) for _ in range(400)]
    plain = [byte_level().encode(text) for text in texts]
    special = [byte_level().encode(text, special=True) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        both = list(pool.map(lambda text: (tokenizer.encode(text), tokenizer.encode(text, special=True)), texts))
    assert both == list(zip(plain, special, strict=True))


def test_begin_adds_what_the_file_says() -> None:
    spec = spec_of(byte_level())
    vocab = spec["model"]["vocab"]
    spec["post_processor"] = around(vocab, "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer(spec)
    ids = byte_level().encode("a pie")
    assert tokenizer.encode("a pie", begin=True) == [vocab["<|im_start|>"], *ids, vocab["<|im_end|>"]]
    assert tokenizer.encode("a pie") == ids


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3])
@given(text=TEXTS)
@settings(deadline=None, max_examples=40)
def test_patterns_cut_as_those_of_the_published_files(pattern: str, text: str) -> None:
    """In the published form both GPT-2's pattern and a written-out one give the same pieces."""
    model = spec_of(byte_level())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    spec = byte_level_json(model["vocab"], merges, [pattern], [])
    ours = Tokenizer(spec)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    spell = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    written = {**spec, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, spell]}}
    assert ours.encode(text) == tokenizers.Tokenizer.from_str(json.dumps(written)).encode(text).ids


def test_the_corpus_is_shorter_in_tokens() -> None:
    assert len(byte_level().encode(CORPUS)) < len(CORPUS.encode()) / 2


def test_texts_begin_with_bos_or_else_with_the_smallest_eos() -> None:
    spec = spec_of(byte_level())
    ends = {"eos_token": "<|im_end|>", "eot_token": "<|im_start|>"}
    assert Tokenizer(spec, {"bos_token": "<|endoftext|>", **ends}).begin_id == 0
    assert Tokenizer(spec, {"bos_token": "<|im_end|>", "eos_token": "<|endoftext|>"}).begin_id == 2
    assert Tokenizer(spec, ends).begin_id == 1
    assert Tokenizer(spec, {"eos_token": "<|im_end|>"}).begin_id == 2


def test_no_other_special_token_begins_a_text() -> None:
    nameless = Tokenizer(spec_of(byte_level()), {"pad_token": "<|endoftext|>"})
    assert nameless.special_ids
    with pytest.raises(TokenizerError, match="no special token that begins or ends a text"):
        _ = nameless.begin_id


@kinds
def test_a_prompt_has_the_begin_token_that_encode_leaves_out(kind: Any) -> None:
    tokenizer = kind()
    plain = tokenizer.encode("apple pie")
    assert tokenizer.encode_prompt("apple pie") == [tokenizer.begin_id, *plain]
    assert tokenizer.begin_id not in plain
