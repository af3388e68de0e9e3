"""How the tokens of a byte-pair vocabulary were made: the merges from single bytes to the token, one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from nextword.encode.bytelevel import CHAR_TO_BYTE
from nextword.encode.tokenizer import Tokenizer

LAST = 24  # tokens of a text whose merges are told


class Merges:
    """The merges of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, str], int]:
        """The merges in the order in which they were learned."""
        return {(left, right): rank for rank, (left, right) in enumerate(self._tokenizer.spec()["model"]["merges"])}

    @cached_property
    def spelled(self) -> Mapping[int, str]:
        """Every token as the vocabulary spells it, by id; none for another kind."""
        vocab = self._tokenizer.spec()["model"]["vocab"]
        return {id: token for token, id in vocab.items()} if isinstance(vocab, dict) else {}

    def of_last(self, ids: Sequence[int]) -> dict[str, Any]:
        """The last `LAST` of the tokens, the merges `of` each, and how many are `earlier`."""
        last = ids[-LAST:]
        return {
            "tokens": [self._tokenizer.token_text(id) for id in last],
            "merges": [self.of(id) for id in last],
            "earlier": len(ids) - len(last),
        }

    def of(self, id: int) -> list[list[str]]:
        """The token's parts after 0, 1, 2, ... merges; empty for a token that merging its bytes does not make."""
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
    """A part of a token as text; bytes that are no characters by themselves as \\xe2."""
    if all(char in CHAR_TO_BYTE for char in part):
        return bytes(CHAR_TO_BYTE[char] for char in part).decode("utf-8", "backslashreplace")
    return part.replace("▁", " ")
