"""Dropout: while it learns, a model does without a random share of what is written into its residual.

A text that is read many times is otherwise learned by heart (Srivastava et al., 2014). Dropout is a hook, so the
equations know nothing of it; and what is left out in a step is a pure function of (seed, step), so a resumed run
leaves out the same.
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

_UNDROPPED_READINGS = 3
_PER_DOUBLING, _MOST = 0.08, 0.3  # of the readings


@dataclass(frozen=True)
class Dropout:
    """A hook that sets the share `share` of each write into the residual to zero and scales up the rest."""

    share: float

    def wants(self, name: str) -> bool:
        return name == "embed" or name.endswith((".attention", ".mlp"))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return F.dropout(tensor, self.share, training=True)


def dropout_for(readings: float) -> float:
    """The share that suits a text which is read so many times: none for one that is read up to three times."""
    return round(min(_PER_DOUBLING * log2(max(readings / _UNDROPPED_READINGS, 1.0)), _MOST), 2)


@contextmanager
def chance_of(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's random numbers are those of this step; the caller's own are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield
