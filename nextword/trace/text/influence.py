"""Influence: which documents a prediction was learned from, estimated to first order from gradients.

The estimate (TracIn, Pruthi et al., 2020): a step along the gradient of a document's loss changes log p of
the token by the product of the two gradients; the sum over some checkpoints of a run stands for the sum over its steps.
It leaves out how one step changes the next, and takes plain gradients where the run's optimizer took its own steps;
how well it predicts a real training without the document is a matter of measurement (`bench/counterfactual.py`).
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
from nextword.trace.recording import check_prompt, check_token, log_probability


def influences(
    models: Iterable[Transformer], ids: Sequence[int], token: int, documents: Sequence[Sequence[int]]
) -> npt.NDArray[np.float64]:
    """The influence of each document on a token after a prompt: the mean over checkpoints of gradient products.

    Above 0, a step on the document raises log p of the token; only the order and the ratios of the numbers have a
    meaning.

    Args:
        models: The models of some checkpoints of the run that read the documents.
        ids: Token ids of the prompt.
        token: Id of the token.
        documents: Token ids of each document; a long one is cut to the model's context.

    Returns:
        Float64 [documents].

    Raises:
        InputError: There are no models.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    scores = np.zeros(len(documents))
    number = 0
    for model in models:
        number += 1
        check_prompt(ids, model.architecture)
        check_token(token, model.architecture)
        parameters = [parameter.requires_grad_() for parameter in model.parameters()]
        log_p = log_probability(model(torch.tensor([list(ids)]))[0, -1], token)
        gradients = torch.autograd.grad(log_p, parameters)
        for i, document in enumerate(documents):
            scores[i] -= sum(_product(model, parameters, gradients, row) for row in _rows(model, document))
    if not number:
        raise InputError("Influence is measured on the checkpoints of a run; give at least one.")
    return scores / number


def _product(model: Transformer, parameters: list[Tensor], gradients: Sequence[Tensor], row: Tensor) -> float:
    """The gradient of the row's loss, summed over its tokens, times `gradients`."""
    loss = F.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum")
    of_loss = torch.autograd.grad(loss, parameters)
    return float(sum((a * b).sum() for a, b in zip(of_loss, gradients, strict=True)))


def _rows(model: Transformer, document: Sequence[int]) -> list[Tensor]:
    """The document cut into rows of a context's length and the token after it."""
    context = model.architecture.context
    pieces = (document[start : start + context + 1] for start in range(0, len(document), context))
    return [torch.tensor(list(piece)) for piece in pieces if len(piece) > 1]
