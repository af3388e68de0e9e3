"""The order of the data as a pure function of (seed, step), which can be inverted.

The tokens of a text form a ring. Each epoch lays a grid of rows on it, `context` tokens apart, and visits every
row once; row r of an epoch that begins at `offset` predicts the tokens at offset + r * context + 1 onwards, each
from those before it in the row. The grid's offset and the order of its rows depend on nothing but the seed and
the number of the epoch, so

- step s is known without running the steps before it: a resumed run goes on exactly where it stopped;
- no permutation is stored, whatever the size of the text;
- for any passage one can say at which steps it was learned (`Order.exposures`).

Epochs follow each other without a gap, also in the middle of a batch. Within an epoch a token is predicted at
most once; the fewer than `context` tokens for which no row is left lie near the beginning of the text in even
epochs and near its middle in odd ones, so two epochs in a row see every token of a text of four contexts or more.

The permutation is a Feistel network over Z_a x Z_b with cycle walking (Black & Rogaway, Ciphers with Arbitrary
Finite Domains, 2002); its round function is the finalizer of SplitMix64 (Steele, Lea & Flood, 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

from nextword.errors import InputError

Indices = npt.NDArray[np.int64]
_Bijection = Callable[[Indices, Indices], Indices]

_ROUNDS = 8
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Exposure:
    """A row of a batch in which a token of a passage is predicted.

    Args:
        epoch: From 0.
        step: From 0.
        place: Of the row in the batch, from 0.
    """

    epoch: int
    step: int
    place: int


@dataclass(frozen=True)
class Order:
    """Which rows of a text each step reads.

    Args:
        n_tokens: Of the text.
        context: Tokens of a row.
        batch_size: Rows of a step.
        seed: Of the permutations and of the offsets of the grids.

    Raises:
        InputError: The text does not fill one row and the token after it.
    """

    n_tokens: int
    context: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_tokens <= self.context:
            raise InputError(
                f"The text has {self.n_tokens} tokens, too few for one row of {self.context} and the token after it; "
                "give more text."
            )

    @property
    def rows_per_epoch(self) -> int:
        """The number of rows of one epoch."""
        return self.n_tokens // self.context

    def rows_of(self, step: int) -> tuple[Indices, Indices]:
        """Epoch and row of each place in the batch of `step`, both int64 [batch_size]."""
        visits = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, visits = np.divmod(visits, self.rows_per_epoch)
        return epochs, _permute(visits, self.rows_per_epoch, self.seed, epochs)

    def starts_of(self, step: int) -> Indices:
        """Position in the text of the first token that each row of the batch reads, int64 [batch_size].

        The row goes on from there around the ring: position n_tokens is position 0.
        """
        epochs, rows = self.rows_of(step)
        return (self._offsets(epochs) + rows * self.context) % self.n_tokens

    def exposures(self, positions: range, steps: int) -> list[Exposure]:
        """The rows, of the first `steps` steps, in which a token at one of these positions of the text is predicted."""
        seen: list[Exposure] = []
        last_epoch = (steps * self.batch_size - 1) // self.rows_per_epoch
        targets = np.arange(positions.start, positions.stop, dtype=np.int64)
        for epoch in range(last_epoch + 1):
            offset = self._offsets(np.array([epoch]))
            rows = np.unique((targets - 1 - offset) % self.n_tokens // self.context)
            rows = rows[rows < self.rows_per_epoch]
            visits = _restore(rows, self.rows_per_epoch, self.seed, np.full_like(rows, epoch))
            for visit in np.sort(visits) + epoch * self.rows_per_epoch:
                step, place = divmod(int(visit), self.batch_size)
                if step < steps:
                    seen.append(Exposure(epoch, step, place))
        return seen

    def _offsets(self, epochs: Indices) -> Indices:
        """Where each epoch's grid begins: within a context of the text's beginning or of its middle."""
        jitter = _hash(self.seed, epochs) % np.uint64(self.context)
        return (jitter.astype(np.int64) + epochs % 2 * (self.n_tokens // 2)) % self.n_tokens


def _permute(numbers: Indices, size: int, seed: int, epochs: Indices) -> Indices:
    """The image of each number in [0, size) under its epoch's permutation."""
    high, low = _sides(size)

    def once(x: Indices, e: Indices) -> Indices:
        left, right = np.divmod(x, low)
        for turn in range(0, _ROUNDS, 2):
            left = (left + _round(seed, e, turn, right, high)) % high
            right = (right + _round(seed, e, turn + 1, left, low)) % low
        return left * low + right

    return _walk(once, numbers, size, epochs)


def _restore(numbers: Indices, size: int, seed: int, epochs: Indices) -> Indices:
    """The inverse of `_permute`."""
    high, low = _sides(size)

    def once(x: Indices, e: Indices) -> Indices:
        left, right = np.divmod(x, low)
        for turn in reversed(range(0, _ROUNDS, 2)):
            right = (right - _round(seed, e, turn + 1, left, low)) % low
            left = (left - _round(seed, e, turn, right, high)) % high
        return left * low + right

    return _walk(once, numbers, size, epochs)


def _sides(size: int) -> tuple[int, int]:
    """a, b with a * b >= size, as square and as tight as they can be."""
    high = isqrt(size - 1) + 1
    return high, -(-size // high)


def _walk(once: _Bijection, numbers: Indices, size: int, epochs: Indices) -> Indices:
    """Apply a bijection of a slightly larger range again and again, until every number is back below `size`."""
    numbers = once(numbers, epochs)
    while (outside := numbers >= size).any():
        numbers[outside] = once(numbers[outside], epochs[outside])
    return numbers


def _round(seed: int, epochs: Indices, turn: int, half: Indices, size: int) -> Indices:
    """A number in [0, size) that depends on everything."""
    return (_hash(seed, epochs, turn, half) % np.uint64(size)).astype(np.int64)


def _hash(seed: int, *parts: Indices | int) -> npt.NDArray[np.uint64]:
    """64 bits mixed from integers, one part after the other."""
    state = np.full(1, seed & _MASK, dtype=np.uint64)
    for part in parts:
        state = _mix(state) + np.asarray(part).astype(np.uint64)
    return _mix(state)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The next number of SplitMix64 in state x: a bijection of 64 bits that spreads every bit over all."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
