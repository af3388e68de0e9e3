"""Byte-pair encoding, the reference implementation: short enough to read; the fast tokenizers are tested against it.

A vocabulary is a table of ranks, bytes -> id. To encode, the text is cut into pre-tokens by a pattern; a pre-token
that is itself a token becomes that token; in any other one the pair of neighbours whose concatenation has the
lowest rank is merged, the leftmost first, until no pair is in the table. To learn a vocabulary, the most
frequent pair of neighbours becomes the next token, again and again (Gage, 1994; Sennrich et al., 2016; on
bytes: Radford et al., 2019).

Promises: with all 256 bytes in the table, any byte string can be held, valid UTF-8 or not, and
decode_bytes(encode_bytes(data)) == data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex

from nextword.encode.bytelevel import BYTE_ORDER, QWEN2
from nextword.errors import InputError, UnknownToken


@dataclass(frozen=True)
class BytePairEncoding:
    """A byte-pair encoding; slow, exact and complete.

    >>> encoding = train("low lower lowest", 258)
    >>> encoding.encode("low"), encoding.decode(encoding.encode("low"))
    ([257], 'low')
    """

    ranks: Mapping[bytes, int]
    """The id of each token, which is its rank: the lower, the earlier merged."""
    pattern: str
    """The regular expression that cuts a text into pre-tokens."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises InputError for a lone surrogate, which is not text."""
        try:
            return self.encode_bytes(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"Character {error.start} of the text is half a surrogate pair; remove it.") from error

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; for valid UTF-8 those that `encode` gives."""
        return [self.ranks[token] for piece in pretokenize(data, self.pattern) for token in self._merge(piece)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that the ids stand for. Raises UnknownToken."""
        tokens = {id: token for token, id in self.ranks.items()}
        try:
            return b"".join(tokens[id] for id in ids)
        except KeyError as error:
            raise UnknownToken(f"Token {error} is not in the vocabulary of {len(tokens)} tokens.") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text that the ids stand for; bytes that are not UTF-8 show as U+FFFD. Raises UnknownToken."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _merge(self, piece: bytes) -> list[bytes]:
        if piece in self.ranks:
            return [piece]
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while True:
            pairs = [left + right for left, right in pairwise(parts)]
            ranked = [(self.ranks[pair], i) for i, pair in enumerate(pairs) if pair in self.ranks]
            if not ranked:
                return parts
            _, i = min(ranked)
            parts[i : i + 2] = [pairs[i]]


def pretokenize(data: bytes, pattern: str) -> Iterator[bytes]:
    """The pre-tokens of some bytes, by a pattern over characters; a byte that is not UTF-8 counts as a symbol.

    >>> list(pretokenize(b"It's 42!", QWEN2))
    [b'It', b"'s", b' ', b'4', b'2', b'!']
    """
    text = data.decode("utf-8", "surrogateescape")
    for match in regex.finditer(pattern, text):
        yield match.group().encode("utf-8", "surrogateescape")


def train(text: str, vocab: int, pattern: str = QWEN2) -> BytePairEncoding:
    """Learn a byte-pair vocabulary: the 256 bytes, then the most frequent pairs of a text.

    Of equally frequent pairs the one with the lower ids is merged first. Ends early when no pair occurs twice.

    Args:
        text: The text to learn from.
        vocab: The largest number of tokens, 256 or more.
        pattern: The regular expression that cuts the text into pre-tokens.

    Raises:
        InputError: `vocab` is below 256.
    """
    if vocab < 256:
        raise InputError(f"A byte-level vocabulary holds at least the 256 bytes; {vocab} tokens are too few.")
    tokens = [bytes([byte]) for byte in BYTE_ORDER]
    ids = {token: id for id, token in enumerate(tokens)}
    words = Counter(pretokenize(text.encode(), pattern))
    split = {word: [ids[bytes([byte])] for byte in word] for word in words}
    while len(tokens) < vocab:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(split[word]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        tokens.append(tokens[best[0]] + tokens[best[1]])
        split = {word: _join(parts, best, len(tokens) - 1) for word, parts in split.items()}
    return BytePairEncoding({token: id for id, token in enumerate(tokens)}, pattern)


def _join(parts: Sequence[int], pair: tuple[int, int], joined: int) -> list[int]:
    """The parts with each pair of neighbours that equals `pair`, from the left, replaced by `joined`."""
    result: list[int] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] = joined
        else:
            result.append(part)
    return result
