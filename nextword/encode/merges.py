"""The merges that make a token of a byte-pair vocabulary, from single bytes to the token, one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from nextword.encode.bytelevel import CHAR_TO_BYTE
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.tokenizer_json import SPACE

LAST = 24  # tokens: at the end of a text, for which `of_last` gives the merges


class Merges:
    """The merges of one tokenizer.

    >>> from nextword.encode.openai import openai_encoding
    >>> for parts in Merges(openai_encoding("r50k_base")).of(262):
    ...     print(parts)
    [' ', 't', 'h', 'e']
    [' t', 'h', 'e']
    [' t', 'he']
    [' the']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, str], int]:
        """The rank of each merge: its place in the order in which the merges were learned."""
        return {(left, right): rank for rank, (left, right) in enumerate(self._tokenizer.spec()["model"]["merges"])}

    @cached_property
    def spelled(self) -> Mapping[int, str]:
        """Every token, in the spelling of the vocabulary, by id; empty for one that is no byte-pair encoding."""
        vocab = self._tokenizer.spec()["model"]["vocab"]
        return {id: token for token, id in vocab.items()} if isinstance(vocab, dict) else {}

    def of_last(self, ids: Sequence[int]) -> dict[str, Any]:
        """The last `LAST` tokens of a text, the merges of each, and the number of earlier tokens, as JSON."""
        last = ids[-LAST:]
        return {
            "tokens": [self._tokenizer.token_text(id) for id in last],
            "merges": [self.of(id) for id in last],
            "earlier": len(ids) - len(last),
        }

    def of(self, id: int) -> list[list[str]]:
        """The parts of a token after 0, 1, 2, ... merges; empty for a token that merging its bytes does not make."""
        parts = list(self.spelled.get(id, ""))
        steps = [parts]
        while len(parts) > 1:
            rank, at = min((self._ranks.get(pair, math.inf), at) for at, pair in enumerate(pairwise(parts)))
            if rank == math.inf:
                return []
            parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
            steps.append(parts)
        return [[_readable(part) for part in step] for step in steps]


def _readable(part: str) -> str:
    r"""A part of a token as text; bytes that are no whole character show as \xe2."""
    if all(char in CHAR_TO_BYTE for char in part):
        return bytes(CHAR_TO_BYTE[char] for char in part).decode("utf-8", "backslashreplace")
    return part.replace(SPACE, " ")
