"""Diff: the exact account of how a logit differs between two models of one shape, or after two texts.

Both ledgers are exact sums over the same causes, so their difference, cause by cause, is the change of the logit, and
what rounding leaves over is its remainder. A cause's difference holds all that changed about it: what it read, how
strongly, what it writes, and the direction and scale in which the last norm and the unembedding read it. It says where
the change appears, not which weights, or which words, made it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.trace.logit.attribution import LogitAttribution, Quantity, attribute
from nextword.trace.logit.components import (
    Bias,
    Component,
    Head,
    Layer,
    Neuron,
    Position,
    Read,
    Source,
    Token,
    ValueBias,
)
from nextword.trace.recording import Recording, record
from nextword.trace.settings import Granularity

TokenText = Callable[[int], str]


@dataclass(frozen=True)
class Difference:
    """One quantity in two readings. ids: of the first. change: after less before, itself a ledger; log p of each."""

    ids: tuple[int, ...]
    before: LogitAttribution
    after: LogitAttribution
    change: LogitAttribution
    log_probabilities: tuple[float, float]

    def to_json(self, decode_token: TokenText, count: int, granularity: Granularity) -> dict[str, Any]:
        """As JSON values, with the `count` largest causes of the change."""
        components = self.change.top(count, granularity)
        payload = [
            {
                "kind": type(component).__name__.lower(),
                **dataclasses.asdict(component),
                "words": words(component),
                "before": self.before.contribution(component),
                "after": self.after.contribution(component),
                "change": self.change.contribution(component),
            }
            for component in components
        ]
        token = self.change.quantity.token
        attributions = {"before": self.before, "after": self.after, "change": self.change}
        return {
            "ids": list(self.ids),
            "tokens": [decode_token(id) for id in self.ids],
            "token": {"id": token, "token": decode_token(token)},
            "logprob": dict(zip(("before", "after"), self.log_probabilities, strict=True)),
            **{
                name: {"total": attribution.total, "remainder": attribution.remainder, "parts": attribution.parts()}
                for name, attribution in attributions.items()
            },
            "components": payload,
            "rest": self.change.total
            - self.change.remainder
            - sum(self.change.contribution(component) for component in components),
        }


def compare_models(before: Transformer, after: Transformer, ids: Sequence[int], quantity: Quantity) -> Difference:
    """How the quantity differs after `ids`.

    Raises InputError for models of different shapes; EmptyPrompt, ContextOverflow, UnknownToken.
    """
    check_shapes(before, after)
    return _difference([record(model, ids) for model in (before, after)], quantity)


def compare_texts(model: Transformer, before: Sequence[int], after: Sequence[int], quantity: Quantity) -> Difference:
    """How the quantity differs after two texts, head by head: positions of different texts are not the same causes.

    Raises EmptyPrompt, ContextOverflow, UnknownToken.
    """
    return _difference([record(model, ids) for ids in (before, after)], quantity, by_head=True)


def _difference(recordings: Sequence[Recording], quantity: Quantity, *, by_head: bool = False) -> Difference:
    first, second = (attribute(recording, [quantity])[0] for recording in recordings)
    if by_head:
        first, second = (dataclasses.replace(each, reads=each.reads.sum(2, keepdims=True)) for each in (first, second))
    log_p = [float(each.logits.double().log_softmax(-1)[quantity.token]) for each in recordings]
    return Difference(recordings[0].ids, first, second, subtract(second, first), (log_p[0], log_p[1]))


def subtract(after: LogitAttribution, before: LogitAttribution) -> LogitAttribution:
    """The ledger of the difference: every entry of `after` less that of `before`."""
    names = [field.name for field in dataclasses.fields(LogitAttribution) if field.name != "quantity"]
    return LogitAttribution(after.quantity, **{name: getattr(after, name) - getattr(before, name) for name in names})


def check_shapes(before: Transformer, after: Transformer) -> None:
    """Raise InputError, naming the first thing that differs, unless the models compute the same equations."""
    for field in dataclasses.fields(before.architecture):
        first, second = (getattr(model.architecture, field.name) for model in (before, after))
        if first != second:
            raise InputError(
                f"The models are not of one shape: {field.name} is {first} in the first and {second} in the second; "
                "compare models of one shape, such as two checkpoints of a run."
            )


def words(component: Component) -> str:
    """A cause as a phrase that holds for both models."""
    match component:
        case Token():
            return "the last token by itself"
        case Position():
            return "the last position by itself"
        case Read(layer, head, source):
            return f"head {layer}.{head} reading position {source}"
        case Head(layer, head):
            return f"head {layer}.{head}"
        case Source(source):
            return f"all heads reading position {source}"
        case Neuron(layer, neuron):
            return f"neuron {layer}.{neuron}"
        case Layer(layer, part):
            return f"layer {layer}'s {'MLP' if part == 'mlp' else part}"
        case ValueBias(layer, head):
            return f"the value bias of head {layer}.{head}"
        case Bias(name):
            return f"the bias {name}"
