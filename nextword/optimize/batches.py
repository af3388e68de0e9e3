"""What a step reads: token ids, the tokens that follow them, and how much each of those counts.

A batch is cut from the flat tokens of a text as `nextword.optimize.order` says, and from nothing else: the same
text, order and step give the same batch. Documents stand one after the other, each led by its begin token, so a
row may hold the end of one and the beginning of the next; predicting a begin token is predicting an end of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.types import Tensor
from nextword.optimize.order import Order


class Text(Protocol):
    """A tokenized text, as shards on disk hold it: N tokens of D documents.

    tokens       unsigned integers [N], may be memory-mapped: the documents one after another
    starts       int64 [D + 1]: where each begins in `tokens` with its begin token; the last is N
    mask         uint8 [N], 1 where the loss of predicting this token counts; None: everywhere
    token_bytes  unsigned integers [vocab]: the bytes of text that each token stands for, 0 for special tokens
    """

    @property
    def tokens(self) -> npt.NDArray[np.integer[Any]]: ...

    @property
    def starts(self) -> npt.NDArray[np.int64]: ...

    @property
    def mask(self) -> npt.NDArray[np.uint8] | None: ...

    @property
    def token_bytes(self) -> npt.NDArray[np.integer[Any]]: ...


@dataclass(frozen=True)
class Batch:
    """What one step reads.

    Args:
        ids: Tokens, int64 [batch_size, context].
        targets: The token after each, int64 [batch_size, context].
        weights: The share of each target in the loss, float32 [batch_size, context]; they sum to 1, or are all 0 where
            no target of the batch counts.
        bytes: Of text that the targets that count stand for.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    bytes: int


def batch(text: Text, order: Order, step: int) -> Batch:
    """Cut the batch of a step from a text, in memory of the CPU.

    Args:
        text: Tokens and which of them count.
        order: Which rows each step reads.
        step: From 0.
    """
    starts = order.starts_of(step)
    positions = (starts[:, None] + np.arange(order.context + 1)) % order.n_tokens
    tokens = text.tokens[positions].astype(np.int64)
    counts = np.ones(positions[:, 1:].shape) if text.mask is None else text.mask[positions[:, 1:]].astype(np.float64)
    weights = counts / max(counts.sum(), 1)
    return Batch(
        ids=torch.from_numpy(tokens[:, :-1]),
        targets=torch.from_numpy(tokens[:, 1:]),
        weights=torch.from_numpy(weights.astype(np.float32)),
        bytes=int((text.token_bytes[tokens[:, 1:]] * counts).sum()),
    )
