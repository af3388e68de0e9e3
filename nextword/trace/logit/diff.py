"""Diff: how a logit differs between two models of one shape, or after two texts, as an exact sum over components.

Both attributions are exact sums over the same components, so their difference, component by component, is the change
of the logit, and what rounding leaves over is its remainder. A component's difference holds all that changed about it:
what it read, how strongly, what it writes, and the direction and scale in which the last norm and the unembedding read
it. It says where the change appears, not which weights, or which words, made it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from nextword.base.types import Json, TokenText
from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.trace.logit.attribution import LogitAttribution, Quantity, attribute
from nextword.trace.logit.components import component_name
from nextword.trace.recording import Recording, log_probability, record
from nextword.trace.settings import Granularity


@dataclass(frozen=True)
class Difference:
    """One quantity in two forward passes.

    Args:
        ids: Token ids of the first pass.
        before: Attribution in the first pass.
        after: Attribution in the second.
        change: `after` less `before`, itself an attribution.
        log_probabilities: Of the token in each pass, in nats.
    """

    ids: tuple[int, ...]
    before: LogitAttribution
    after: LogitAttribution
    change: LogitAttribution
    log_probabilities: tuple[float, float]

    def to_json(self, decode_token: TokenText, count: int, granularity: Granularity) -> Json:
        """As JSON values, with the components of the change that are largest.

        Args:
            decode_token: Gives the text of an id.
            count: The number of components.
            granularity: What the components are (`LogitAttribution.contributions`).
        """
        components = self.change.top(count, granularity)
        payload = [
            {
                "kind": type(component).__name__.lower(),
                **dataclasses.asdict(component),
                "words": component_name(component),
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
    """The difference of a quantity between two models after the same prompt.

    Args:
        before: One model.
        after: Another one of the same architecture.
        ids: The prompt's token ids.
        quantity: What is compared.

    Raises:
        InputError: The models are of different architectures.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the models' context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    check_shapes(before, after)
    return _difference([record(model, ids) for model in (before, after)], quantity)


def compare_texts(model: Transformer, before: Sequence[int], after: Sequence[int], quantity: Quantity) -> Difference:
    """The difference of a quantity between two prompts, head by head.

    Reads are summed over positions, because the same position of two texts is not the same component.

    Args:
        model: The reference model.
        before: Token ids of one prompt.
        after: Token ids of the other.
        quantity: What is compared.

    Raises:
        EmptyPrompt: A prompt has no ids.
        ContextOverflow: A prompt has more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    return _difference([record(model, ids) for ids in (before, after)], quantity, by_head=True)


def _difference(recordings: Sequence[Recording], quantity: Quantity, *, by_head: bool = False) -> Difference:
    """The difference between two recordings; `by_head` sums what a head reads over all positions."""
    first, second = (attribute(recording, [quantity])[0] for recording in recordings)
    if by_head:
        first, second = (dataclasses.replace(each, reads=each.reads.sum(2, keepdims=True)) for each in (first, second))
    log_p = [float(log_probability(each.logits, quantity.token)) for each in recordings]
    return Difference(recordings[0].ids, first, second, subtract(second, first), (log_p[0], log_p[1]))


def subtract(after: LogitAttribution, before: LogitAttribution) -> LogitAttribution:
    """The attribution of a difference: every contribution to `after` less that to `before`."""
    names = [field.name for field in dataclasses.fields(LogitAttribution) if field.name not in ("quantity", "edits")]
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
