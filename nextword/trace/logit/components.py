"""Causes: what can be named as a reason for a logit, each something that is written into the residual.

Every part of the account in attribution.py is one of these, and so is every sum of parts that it can be
asked for. At the last position of the prompt each writes one known vector; removing a cause is putting another
vector in its place (nextword.trace.logit.ablation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, order=True)
class Token:
    """The last token's own embedding: the direct path, what the weights say about a pair of words."""


@dataclass(frozen=True, order=True)
class Position:
    """The learned vector of the last position."""


@dataclass(frozen=True, order=True)
class Read:
    """What one head took from one earlier position (`source`, counted from 0), without the value bias."""

    layer: int
    head: int
    source: int


@dataclass(frozen=True, order=True)
class Head:
    """All that one head wrote: its reads and its value bias."""

    layer: int
    head: int


@dataclass(frozen=True, order=True)
class Source:
    """What all heads of all layers took from one position."""

    source: int


@dataclass(frozen=True, order=True)
class Neuron:
    """One unit of an MLP's hidden layer."""

    layer: int
    neuron: int


@dataclass(frozen=True, order=True)
class Layer:
    """All that a layer's attention or MLP wrote, biases included."""

    layer: int
    part: Literal["attention", "mlp"]


@dataclass(frozen=True, order=True)
class ValueBias:
    """A head's value bias: written whatever it reads, since a pattern sums to 1."""

    layer: int
    head: int


@dataclass(frozen=True, order=True)
class Bias:
    """A stored vector that is always added: the tensor of this name."""

    name: str


Component = Token | Position | Read | Head | Source | Neuron | Layer | ValueBias | Bias
