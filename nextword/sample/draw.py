"""The random number that draws each token: a pure function of the seed and the token's position.

Nothing is carried from one draw to the next, so a text can be replayed from any position, alone or in a batch,
and two machines agree. Philox 4x64 (Salmon et al., 2011) is a counter-based generator made for that purpose.
"""

from __future__ import annotations

import secrets
from functools import lru_cache

import numpy as np

from nextword.errors import SettingError

LARGEST_SEED = (1 << 64) - 1
_BLOCK = 64  # numbers: made at once, because a generator takes longer to begin than to run


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) for the token at `position` (from 0, the prompt included).

    >>> uniform(seed=1, position=5) == uniform(seed=1, position=5) != uniform(seed=1, position=6)
    True
    """
    return _block(seed, position // _BLOCK)[position % _BLOCK]


@lru_cache(maxsize=64)
def _block(seed: int, block: int) -> list[float]:
    """The numbers of _BLOCK neighbouring positions: the first of the four words that Philox makes of each counter."""
    words = np.random.Philox(key=seed, counter=_BLOCK * block).random_raw(4 * _BLOCK)[::4]
    numbers: list[float] = ((words >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers


def new_seed() -> int:
    """A random seed of 32 bits, short enough to be typed again."""
    return secrets.randbits(32)


def check_seed(seed: int) -> int:
    """The seed itself. Raises SettingError if it is not a whole number that fits in 64 bits."""
    if not 0 <= seed <= LARGEST_SEED:
        raise SettingError(f"The seed must be between 0 and {LARGEST_SEED}, not {seed}.")
    return seed
