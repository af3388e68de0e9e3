"""Guessing the next tokens from the text itself, so that several are read in one pass (prompt lookup).

What follows the latest earlier place that ends like the text does is the guess (Saxena, "Prompt Lookup Decoding",
2023). A guess changes no text: each token is still drawn from the model's own distribution at its position, with
the random number of its position, and a guess that is not what was drawn is forgotten (`Generation`). Only an
engine whose logits are the same bits however many tokens it reads at once may be given guesses.

Every guess is judged, also those that were not read, which costs nothing; a row is read only while the chance that
it and all before it are right is larger than its cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LONGEST = 3  # tokens of the text's end that are looked for, then fewer
MOST = 8  # tokens guessed at once
ROW_COST = 0.5  # in passes of one row; 8 rows take 2.3 to 2.9 passes, the rest is for rates that are about to fall
MEMORY = 0.15  # how fast the rate follows what was right lately


class PromptLookup:
    """Guesses how a text goes on. `rate` is the share of single guesses that were right lately."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.rate = 0.0
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # from the last tokens before a place to the latest such place
        for id in ids:
            self._append(id)

    def push(self, id: int) -> None:
        """The text goes on with `id`; was that the guess?"""
        guess = self._guess(1)
        if guess:
            self.rate += MEMORY * ((guess[0] == id) - self.rate)
        self._append(id)

    def guess(self, room: int) -> list[int]:
        """The next tokens as far as it pays to read them along, at most `room`."""
        if self.rate <= ROW_COST:
            return []
        worth = MOST if self.rate >= 1 else int(math.log(ROW_COST) / math.log(self.rate))
        return self._guess(min(worth, MOST, room))

    def _guess(self, count: int) -> list[int]:
        for length in range(min(LONGEST, len(self._ids)), 0, -1):
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                period = len(self._ids) - place  # what repeats itself goes on repeating itself
                return [self._ids[place + i % period] for i in range(count)]
        return []

    def _append(self, id: int) -> None:
        """A place becomes known when a token stands there: the text's end is no earlier match of itself."""
        place = len(self._ids)
        for length in range(1, min(LONGEST, place) + 1):
            self._after[tuple(self._ids[place - length :])] = place
        self._ids.append(id)
