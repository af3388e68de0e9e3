"""A start from word pairs: before its first step, a model already knows how often each token follows each.

A model whose blocks write nothing is its embedding and unembedding alone: softmax(norm(E) U) can only be a table of
pairs. That table is counted in one look at the whole text, and the two matrices are fitted to it by gradient descent on
all its pairs at once, which takes less time than a few steps of the whole model. The blocks then learn what pairs leave
open.

Promises: a function of text, architecture and seed; never worse on the text's pairs than before the fit. What it costs:
the weights have seen the whole text before step 0, so that no step is the first to read a passage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.errors import InputError
from nextword.model.architecture import Architecture
from nextword.model.types import Tensor
from nextword.optimize.batches import Text
from nextword.optimize.forecast import DISCOUNT
from nextword.optimize.optimizer import Adam
from nextword.optimize.recipe import initial_weights

Odds = npt.NDArray[np.float32]

BYTES_PER_PAIR = 20  # of memory, while the table is fitted
_PASSES, _RATE, _BETAS = 30, 0.04, (0.8, 0.9)  # so short a descent wants a short memory


def pair_weights(text: Text, architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """The initial weights of the seed, with embedding and unembedding fitted to the text's pairs; float32, on the CPU.

    Holds `BYTES_PER_PAIR` for each of the vocabulary's pairs of tokens. Raises InputError for a tied architecture,
    whose one matrix cannot hold a table that is not symmetric.
    """
    if architecture.tied:
        raise InputError("A model with one matrix for embedding and unembedding cannot start from pairs; untie them.")
    weights = initial_weights(architecture, seed)
    odds, often = pair_odds(text)
    table = torch.from_numpy(odds).mul_(torch.from_numpy(often / often.sum())[:, None])
    fitted = {name: weights[name].requires_grad_() for name in ("embed.weight", "unembed.weight")}
    adam = Adam(fitted, _BETAS)
    for step in range(_PASSES):
        loss = pair_loss(fitted["embed.weight"], fitted["unembed.weight"], table, architecture.norm.eps)
        gradients = torch.autograd.grad(loss, list(fitted.values()))
        adam.step(dict(zip(fitted, gradients, strict=True)), _RATE * (1 - step / _PASSES), step)
    return weights | {name: weight.detach() for name, weight in fitted.items()}


def pair_loss(embedding: Tensor, unembedding: Tensor, table: Tensor, eps: float) -> Tensor:
    """Nats per token of the model of pairs on `table` [vocab, vocab], the share of each pair in the text."""
    states = embedding * torch.rsqrt(embedding.square().mean(-1, keepdim=True) + eps)
    loss: Tensor = -(table * (states @ unembedding.t()).log_softmax(-1)).sum()
    return loss


def pair_odds(text: Text) -> tuple[Odds, Odds]:
    """The probability of each token after each [vocab, vocab], and how often each is followed by any [vocab]; float32.

    Interpolated Kneser-Ney, as in `nextword.optimize.forecast`, but of all pairs at once; over those whose second token
    counts in the loss.
    """
    vocab, tokens = len(text.token_bytes), np.asarray(text.tokens, np.int64)
    pairs = tokens[:-1] * vocab + tokens[1:]
    if text.mask is not None:
        pairs = pairs[np.asarray(text.mask[1:], bool)]
    counts: npt.NDArray[Any] = np.bincount(pairs, minlength=vocab * vocab).reshape(vocab, vocab).astype(np.float32)
    is_seen = counts > 0
    often, kinds = counts.sum(1, dtype=np.float64).astype(np.float32), is_seen.sum(1, dtype=np.float32)
    befores = is_seen.sum(0)  # after how many different tokens each comes
    wider = (np.maximum(befores - DISCOUNT, 0) + DISCOUNT * (befores > 0).sum() / vocab) / befores.sum()
    np.maximum(counts - DISCOUNT, 0, out=counts)
    counts += (DISCOUNT * kinds)[:, None] * wider.astype(np.float32)
    counts /= np.maximum(often, 1)[:, None]
    counts[often == 0] = wider
    return counts, often
