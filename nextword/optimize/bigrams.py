"""Initialization from bigrams: before its first step, a model already knows how often each token follows each.

A model whose blocks write nothing is its embedding and unembedding alone: softmax(norm(E) U) can only be a table of
bigrams (Elhage et al., A Mathematical Framework for Transformer Circuits, 2021). That table is counted in one pass over
the whole text, and the two matrices are fitted to the table by gradient descent on all its bigrams at once, which takes
less time than a few steps of the whole model. The blocks then learn what bigrams leave open.

Promises: a function of text, architecture and seed; the loss on the text's bigrams is never higher than before the fit.
The price: the weights have seen the whole text before step 0, so that no step is the first to read a passage.
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
from nextword.optimize.initialize import initial_weights
from nextword.optimize.optimizer import Adam

Floats = npt.NDArray[np.float32]

BYTES_PER_BIGRAM = 20  # bytes: memory for each pair of tokens of the vocabulary, while the table is fitted
_PASSES, _RATE = 30, 0.04  # steps and peak learning rate of the fit
_BETAS = (0.8, 0.9)  # of Adam: a descent of 30 steps needs short averages


def bigram_weights(text: Text, architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """The initial weights of the seed, with embedding and unembedding fitted to the text's bigrams.

    Needs `BYTES_PER_BIGRAM` * vocab**2 bytes of memory.

    Args:
        text: Whose bigrams are counted.
        architecture: Untied: one matrix for both cannot hold a table that is not symmetric.
        seed: Of the weights before the fit.

    Returns:
        Float32 tensors in memory of the CPU, named as `nextword.model.architecture.tensor_shapes` says.

    Raises:
        InputError: The architecture is tied.
    """
    if architecture.tied:
        raise InputError("A model with one matrix for embedding and unembedding cannot start from bigrams; untie them.")
    weights = initial_weights(architecture, seed)
    probabilities, often = bigram_probabilities(text)
    table = torch.from_numpy(probabilities).mul_(torch.from_numpy(often / often.sum())[:, None])
    fitted = {name: weights[name].requires_grad_() for name in ("embed.weight", "unembed.weight")}
    adam = Adam(fitted, _BETAS)
    for step in range(_PASSES):
        loss = bigram_loss(fitted["embed.weight"], fitted["unembed.weight"], table, architecture.norm.eps)
        gradients = torch.autograd.grad(loss, list(fitted.values()))
        adam.step(dict(zip(fitted, gradients, strict=True)), _RATE * (1 - step / _PASSES), step)
    return weights | {name: weight.detach() for name, weight in fitted.items()}


def bigram_loss(embedding: Tensor, unembedding: Tensor, table: Tensor, eps: float) -> Tensor:
    """The cross-entropy of softmax(norm(E) U) on a table of bigrams, in nats per token.

    Args:
        embedding: E [vocab, width].
        unembedding: U [vocab, width].
        table: The share of each bigram in the text [vocab, vocab], the first token's row by the second's column.
        eps: Of the RMSNorm.
    """
    states = embedding * torch.rsqrt(embedding.square().mean(-1, keepdim=True) + eps)
    loss: Tensor = -(table * (states @ unembedding.t()).log_softmax(-1)).sum()
    return loss


def bigram_probabilities(text: Text) -> tuple[Floats, Floats]:
    """The probability of each token after each [vocab, vocab], and the number of bigrams each begins [vocab]; float32.

    Interpolated Kneser-Ney, as in `nextword.optimize.forecast`, but of all bigrams at once; of those whose second token
    counts in the loss.
    """
    vocab, tokens = len(text.token_bytes), np.asarray(text.tokens, np.int64)
    pairs = tokens[:-1] * vocab + tokens[1:]
    if text.mask is not None:
        pairs = pairs[np.asarray(text.mask[1:], bool)]
    counts: npt.NDArray[Any] = np.bincount(pairs, minlength=vocab * vocab).reshape(vocab, vocab).astype(np.float32)
    is_seen = counts > 0
    often, kinds = counts.sum(1, dtype=np.float64).astype(np.float32), is_seen.sum(1, dtype=np.float32)
    befores = is_seen.sum(0)  # the number of different tokens that each comes after
    wider = (np.maximum(befores - DISCOUNT, 0) + DISCOUNT * (befores > 0).sum() / vocab) / befores.sum()
    np.maximum(counts - DISCOUNT, 0, out=counts)
    counts += (DISCOUNT * kinds)[:, None] * wider.astype(np.float32)
    counts /= np.maximum(often, 1)[:, None]
    counts[often == 0] = wider
    return counts, often
