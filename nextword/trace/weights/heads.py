"""Heads: where they look in a text, and what kind of head each is.

`head_roles` scores every head on texts made for the purpose, random tokens repeated after a random period, where
only the arrangement can be attended to (Olsson et al., 2022). All scores are mean attention weights, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.recording import Recorder, check_prompt, check_token

Array = npt.NDArray[np.float64]


@torch.no_grad()
def attention_patterns(model: Transformer, ids: Sequence[int], layer: int) -> Tensor:
    """Attention weights of one layer [heads, T, T]: row t is the distribution of position t over the positions.

    Args:
        model: The reference model.
        ids: The T token ids of a text.
        layer: The layer, from 0.

    Raises:
        InputError: The layer does not exist.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    check_prompt(ids, model.architecture)
    if not 0 <= layer < model.architecture.n_layers:
        raise InputError(f"There is no layer {layer}: the model's go from 0 to {model.architecture.n_layers - 1}.")
    points = Recorder(lambda name: name == f"blocks.{layer}.attention.pattern")
    model.states(torch.tensor([list(ids)], device=model.embed.weight.device), hook=points)
    return next(iter(points.activations.values()))[0]


@dataclass(frozen=True)
class HeadRoles:
    """Mean attention weights of all heads to four kinds of place, each float64 [layers, heads].

    Args:
        previous: To the token just before.
        duplicate: To the same token one period before.
        induction: To the token after that one: what followed last time.
        first: To the text's first token, where a head rests that finds nothing.
    """

    previous: Array
    duplicate: Array
    induction: Array
    first: Array

    def of(self, layer: int, head: int) -> dict[str, float]:
        """The scores of one head, highest first."""
        scores = {name: float(getattr(self, name)[layer, head]) for name in self.__dataclass_fields__}
        return dict(sorted(scores.items(), key=lambda item: -item[1]))


@torch.no_grad()
def head_roles(
    model: Transformer, *, tokens: Sequence[int] | None = None, begin: int | None = None, texts: int = 4, seed: int = 0
) -> HeadRoles:
    """Score all heads on generated texts of up to 128 tokens.

    Args:
        model: The reference model.
        tokens: Ids to draw from, None: all of the vocabulary.
        begin: The token that every text starts with, None: none.
        texts: The number of texts.
        seed: Of their tokens and periods.

    Raises:
        InputError: The model's context or vocabulary is too small for a repetition.
        UnknownToken: An id is outside the vocabulary.
    """
    a, rng = model.architecture, np.random.default_rng(seed)
    pool = np.arange(a.vocab) if tokens is None else np.unique(tokens)
    lead = 0 if begin is None else 1
    longest = min((min(a.context, 128) - lead) // 2, len(pool))
    if longest < 3:
        raise InputError("To find the roles of heads, at least three different tokens must fit the context twice.")
    for id in (*pool[[0, -1]].tolist(), *([] if begin is None else [begin])):
        check_token(id, a)
    scores = []
    for _ in range(texts):
        period = int(rng.integers(max(3, longest // 2), longest + 1))
        once = rng.choice(pool, period, replace=False).tolist()
        ids = [*([] if begin is None else [begin]), *once, *once]
        scores.append(_scores(model, ids, lead, period))
    return HeadRoles(*np.mean(scores, 0))


def _scores(model: Transformer, ids: Sequence[int], lead: int, period: int) -> Array:
    """Previous, duplicate, induction and first scores of one text [4, layers, heads]."""
    points = Recorder(lambda name: name.endswith(".attention.pattern"))
    model.states(torch.tensor([ids], device=model.embed.weight.device), hook=points)
    patterns = torch.stack([seen[0] for seen in points.activations.values()]).double()  # [L, H, T, T]
    again = torch.arange(lead + period, len(ids), device=patterns.device)

    def weight(back: int) -> Tensor:
        return patterns[:, :, again, again - back].mean(-1)

    found = [weight(1), weight(period), weight(period - 1), patterns[:, :, again, 0].mean(-1)]
    scores: Array = torch.stack(found).cpu().numpy()
    return scores
