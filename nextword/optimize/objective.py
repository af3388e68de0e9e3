"""The objective: cross-entropy of the next token, without ever holding all logits.

The logits [tokens, vocab] are by far the largest tensor of a training step. Here they live a chunk of tokens at a
time: its logits become its losses and, in the same pass, the gradients of its states and its share of the
gradient of the unembedding (as in Liger Kernel, Hsu et al., 2024). Losses and gradients are those of
`torch.nn.functional.cross_entropy` up to rounding; softmax and sums are computed in float32 or better.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from nextword.model.types import Tensor

_LOGITS = {"cpu": 1 << 20}  # logits: held at once, so that they stay in a cache
_MOST_LOGITS = 1 << 26  # logits: held at once on other devices, which small chunks would leave idle
_TOKENS = 256  # tokens: of a chunk at least


def cross_entropy(states: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of weight * -log softmax(unembedding @ state)[target], a scalar of at least float32.

    Gradients flow to the states and the unembedding. Equal weights of 1 / tokens give the mean.

    Args:
        states: Final, normed states [tokens, width].
        unembedding: [vocab, width].
        targets: Ids [tokens].
        weights: Of each token in the sum [tokens].

    >>> states, unembedding = torch.zeros(2, 4), torch.zeros(8, 4)
    >>> cross_entropy(states, unembedding, torch.tensor([1, 5]), torch.tensor([0.5, 0.5])).exp().round()
    tensor(8.)
    """
    loss: Tensor = _CrossEntropy.apply(states, unembedding, targets, weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(states: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(unembedding @ state)[target] of each token in nats, [tokens] of at least float32.

    Args:
        states: Final, normed states [tokens, width].
        unembedding: [vocab, width].
        targets: Ids [tokens].
    """
    losses = [
        _log_softmax(part, unembedding).gather(1, target[:, None])[:, 0].neg_()
        for part, target in _chunks(unembedding, states, targets)
    ]
    return torch.cat(losses)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        wide = torch.promote_types(states.dtype, torch.float32)
        loss = states.new_zeros((), dtype=wide)
        state_gradients = torch.empty_like(states)
        gradient = torch.zeros_like(unembedding, dtype=wide)
        parts = _chunks(unembedding, states, targets, weights, state_gradients)
        for part, target, weight, part_gradients in parts:
            logs = _log_softmax(part, unembedding)
            loss -= logs.gather(1, target[:, None])[:, 0] @ weight.to(wide)
            errors = logs.exp_()  # d loss / d logits = weight * (probability - 1 at the target)
            errors.scatter_add_(1, target[:, None], errors.new_full((len(target), 1), -1.0))
            errors, weight = errors.to(states.dtype), weight[:, None].to(states.dtype)
            torch.mul(errors @ unembedding, weight, out=part_gradients)
            gradient += errors.t() @ (weight * part)
        ctx.save_for_backward(state_gradients, gradient.to(unembedding.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        state_gradients, gradient = ctx.saved_tensors
        return state_gradients * outer.to(gradient.dtype), gradient * outer.to(gradient.dtype), None, None


def _chunks(unembedding: Tensor, *tensors: Tensor) -> Any:
    """The tensors [tokens, ...] cut alike into pieces whose logits fit."""
    size = max(_TOKENS, _LOGITS.get(unembedding.device.type, _MOST_LOGITS) // len(unembedding))
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def _log_softmax(states: Tensor, unembedding: Tensor) -> Tensor:
    """Log-probabilities [tokens, vocab], at least float32."""
    logits = F.linear(states, unembedding)
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
