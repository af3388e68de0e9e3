"""Components of the residual stream: what a logit is attributed to, each something that is written into the residual.

Every term of an attribution (attribution.py) is one of these, and so is every sum of terms that it gives. At the last
position of the prompt each writes one known vector; to ablate a component is to put another vector in its place
(nextword.trace.logit.ablation).
"""

from __future__ import annotations

from collections.abc import Callable
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
    """What one head wrote by attending to one position, without its value bias.

    Args:
        layer: The head's layer, from 0.
        head: The head's number in its layer.
        source: The position that it attended to, from 0.
    """

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
    """What all heads of all layers wrote by attending to one position, from 0."""

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
    """A head's value bias: written wherever the head attends, since a pattern sums to 1."""

    layer: int
    head: int


@dataclass(frozen=True, order=True)
class Bias:
    """A stored vector that is always added: the tensor of this name."""

    name: str


@dataclass(frozen=True, order=True)
class Edited:
    """What an edit of the model changed at a hook point, at the last position."""

    point: str


Component = Token | Position | Read | Head | Source | Neuron | Layer | ValueBias | Bias | Edited


def component_name(component: Component, place: Callable[[int], str] = "position {}".format) -> str:
    """What a component is called in any prompt; `place` gives the words for a position.

    >>> component_name(Read(3, 5, 7))
    'head 3.5 reading position 7'
    >>> component_name(Layer(2, "mlp"))
    "layer 2's MLP"
    """
    match component:
        case Token():
            return "the last token by itself"
        case Position():
            return "the last position by itself"
        case Read(layer, head, source):
            return f"head {layer}.{head} reading {place(source)}"
        case Head(layer, head):
            return f"head {layer}.{head}"
        case Source(source):
            return f"all heads reading {place(source)}"
        case Neuron(layer, neuron):
            return f"neuron {layer}.{neuron}"
        case Layer(layer, part):
            return f"layer {layer}'s {'MLP' if part == 'mlp' else part}"
        case ValueBias(layer, head):
            return f"the value bias of head {layer}.{head}"
        case Bias(name):
            return f"the bias {name}"
        case Edited(point):
            return f"the edit at {point}"
