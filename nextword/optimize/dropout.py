"""Dropout (Srivastava et al., 2014): in training, a random share of each write into the residual is set to zero.

Without it a text that is read many times is memorized. Dropout is a hook, so the equations know nothing of it. The
random mask of a step is a pure function of (seed, step), so a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from torch.nn import functional as F

from nextword.model.types import Tensor

_UNDROPPED_READINGS = 3  # epochs: up to this number, no dropout
_PER_DOUBLING, _MOST = 0.08, 0.3  # probability: added by each doubling of the epochs beyond, and at most


@dataclass(frozen=True)
class Dropout:
    """A hook that sets elements of each write into the residual to zero with probability `share`, and scales the rest
    by 1 / (1 - share).
    """

    share: float

    def wants(self, name: str) -> bool:
        return name == "embed" or name.endswith((".attention", ".mlp"))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return F.dropout(tensor, self.share, training=True)


def dropout_for(readings: float) -> float:
    """The dropout probability for a run over `readings` epochs of its text: 0 up to three epochs, then 0.08 for each
    doubling, at most 0.3.

    >>> dropout_for(3), dropout_for(12), dropout_for(1000)
    (0.0, 0.16, 0.3)
    """
    return round(min(_PER_DOUBLING * log2(max(readings / _UNDROPPED_READINGS, 1.0)), _MOST), 2)


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """A context in which torch's random numbers are those of one step; afterwards the caller's generator goes on.

    Args:
        seed: Of the run.
        step: From 0.
        device: Whose generator is seeded.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
