"""Influence: which documents a prediction was learned from, as cheaply as it can be said.

The first-order account (TracIn, Pruthi et al., 2020): a step along the gradient of a document's loss changes log p of
the token by the product of the two gradients; the sum over some checkpoints of a run stands for the sum over its steps.
It leaves out how one step changes the next, and takes plain gradients where the run's optimizer took its own steps;
how well it foretells a real training without the document is a matter of measurement (`bench/counterfactual.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.recording import check_prompt, check_token


def influences(
    models: Iterable[Transformer], ids: Sequence[int], token: int, documents: Sequence[Sequence[int]]
) -> npt.NDArray[np.float64]:
    """How much each document speaks for `token` after `ids`, float64 [documents], in units of its own.

    models: of some checkpoints of the run that read the documents (ids, cut into the model's context). More is more
    support, below zero speaks against. Raises InputError for no models, EmptyPrompt, ContextOverflow, UnknownToken.
    """
    scores = np.zeros(len(documents))
    number = 0
    for model in models:
        number += 1
        check_prompt(ids, model.architecture)
        check_token(token, model.architecture)
        parameters = [parameter.requires_grad_() for parameter in model.parameters()]
        log_p = model(torch.tensor([list(ids)]))[0, -1].log_softmax(-1)[token]
        towards = torch.autograd.grad(log_p, parameters)
        for i, document in enumerate(documents):
            scores[i] -= sum(_product(model, parameters, towards, row) for row in _rows(model, document))
    if not number:
        raise InputError("Influence is measured on the checkpoints of a run; give at least one.")
    return scores / number


def _product(model: Transformer, parameters: list[Tensor], towards: Sequence[Tensor], row: Tensor) -> float:
    """The gradient of the row's loss, summed over its tokens, times `towards`."""
    loss = F.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum")
    gradients = torch.autograd.grad(loss, parameters)
    return float(sum((a * b).sum() for a, b in zip(gradients, towards, strict=True)))


def _rows(model: Transformer, document: Sequence[int]) -> list[Tensor]:
    """The document in pieces of a context and the token after it."""
    context = model.architecture.context
    pieces = (document[start : start + context + 1] for start in range(0, len(document), context))
    return [torch.tensor(list(piece)) for piece in pieces if len(piece) > 1]
