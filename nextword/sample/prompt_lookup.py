"""Prompt lookup decoding: the next tokens are guessed from the text itself, so that one pass reads several.

The guess is what followed the latest earlier occurrence of the text's last tokens (Saxena, "Prompt Lookup Decoding",
2023). A guess changes no text: each token is still drawn from the model's own distribution at its position, with
the random number of its position, and a guess that differs from the drawn token is dropped (`Generation`). Only an
engine whose logits are the same bits for any number of tokens read at once may be given guesses.

Every guess is compared with the drawn token, also those that were not read, which costs nothing. A guess is read only
while the probability that it and all guesses before it are right is larger than the cost of its row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_NGRAM = 3  # tokens: of the text's end that are searched for first, then fewer
MAX_GUESSES = 8  # tokens: guessed at once
ROW_COST = 0.5  # passes of one row: 8 rows take 2.3 to 2.9; the margin is for rates that are about to fall
RATE_WEIGHT = 0.15  # fraction: weight of the latest guess in the moving average `rate`


class PromptLookup:
    """Guesses of the tokens that follow a text.

    `rate` is the acceptance rate of single guesses, an exponential moving average.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.rate = 0.0
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # from the last tokens before a place to the latest such place
        for id in ids:
            self._append(id)

    def push(self, id: int) -> None:
        """Add a token to the text and update `rate` by whether it had been guessed."""
        guess = self._guess(1)
        if guess:
            self.rate += RATE_WEIGHT * ((guess[0] == id) - self.rate)
        self._append(id)

    def guess(self, room: int) -> list[int]:
        """The next tokens, as many as pay for their rows, at most `room`."""
        if self.rate <= ROW_COST:
            return []
        worth = MAX_GUESSES if self.rate >= 1 else int(math.log(ROW_COST) / math.log(self.rate))
        return self._guess(min(worth, MAX_GUESSES, room))

    def _guess(self, count: int) -> list[int]:
        for length in range(min(MAX_NGRAM, len(self._ids)), 0, -1):
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                period = len(self._ids) - place  # the last tokens are taken to repeat
                return [self._ids[place + i % period] for i in range(count)]
        return []

    def _append(self, id: int) -> None:
        """Add a token and index the n-grams before it; until then the text's end is no earlier match of itself."""
        place = len(self._ids)
        for length in range(1, min(MAX_NGRAM, place) + 1):
            self._after[tuple(self._ids[place - length :])] = place
        self._ids.append(id)
