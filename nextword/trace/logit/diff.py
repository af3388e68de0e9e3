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
from nextword.trace.logit.attribution import Grouping, Ledger, Quantity, account
from nextword.trace.logit.components import Bias, Cause, Head, Layer, Neuron, Position, Read, Source, Token, ValueBias
from nextword.trace.recording import Recording, record

Spell = Callable[[int], str]


@dataclass(frozen=True)
class Difference:
    """One quantity in two readings. ids: of the first. change: after less before, itself a ledger; log p of each."""

    ids: tuple[int, ...]
    before: Ledger
    after: Ledger
    change: Ledger
    log_probabilities: tuple[float, float]

    def to_json(self, spell: Spell, count: int, by: Grouping) -> dict[str, Any]:
        """As JSON values, with the `count` largest causes of the change."""
        causes = self.change.top(count, by)
        told = [
            {
                "kind": type(cause).__name__.lower(),
                **dataclasses.asdict(cause),
                "words": words(cause),
                "before": self.before.share(cause),
                "after": self.after.share(cause),
                "change": self.change.share(cause),
            }
            for cause in causes
        ]
        token = self.change.quantity.token
        ledgers = {"before": self.before, "after": self.after, "change": self.change}
        return {
            "ids": list(self.ids),
            "tokens": [spell(id) for id in self.ids],
            "token": {"id": token, "token": spell(token)},
            "logprob": dict(zip(("before", "after"), self.log_probabilities, strict=True)),
            **{
                name: {"total": ledger.total, "remainder": ledger.remainder, "parts": ledger.parts()}
                for name, ledger in ledgers.items()
            },
            "causes": told,
            "rest": self.change.total - self.change.remainder - sum(self.change.share(cause) for cause in causes),
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
    first, second = (account(recording, [quantity])[0] for recording in recordings)
    if by_head:
        first, second = (dataclasses.replace(each, reads=each.reads.sum(2, keepdims=True)) for each in (first, second))
    log_p = [float(each.logits.double().log_softmax(-1)[quantity.token]) for each in recordings]
    return Difference(recordings[0].ids, first, second, subtract(second, first), (log_p[0], log_p[1]))


def subtract(after: Ledger, before: Ledger) -> Ledger:
    """The ledger of the difference: every entry of `after` less that of `before`."""
    names = [field.name for field in dataclasses.fields(Ledger) if field.name != "quantity"]
    return Ledger(after.quantity, **{name: getattr(after, name) - getattr(before, name) for name in names})


def check_shapes(before: Transformer, after: Transformer) -> None:
    """Raise InputError, naming the first thing that differs, unless the models compute the same equations."""
    for field in dataclasses.fields(before.architecture):
        first, second = (getattr(model.architecture, field.name) for model in (before, after))
        if first != second:
            raise InputError(
                f"The models are not of one shape: {field.name} is {first} in the first and {second} in the second; "
                "compare models of one shape, such as two checkpoints of a run."
            )


def words(cause: Cause) -> str:
    """A cause as a phrase that holds for both models."""
    match cause:
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
