"""Tiny texts and models for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes

BEGIN = 0


@dataclass(frozen=True)
class TinyText:
    """Documents in memory, with what training needs of shards on disk."""

    tokens: npt.NDArray[np.integer[Any]]
    starts: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8] | None
    token_bytes: npt.NDArray[np.integer[Any]]


def text_of(documents: Sequence[Sequence[int]], vocab: int, mask: Sequence[int] | None = None) -> TinyText:
    """Documents of ids >= 1, each led by the begin token; token i stands for i % 3 + 1 bytes."""
    tokens = [token for document in documents for token in (BEGIN, *document)]
    starts = np.cumsum([0, *(len(document) + 1 for document in documents)])
    token_bytes = np.array([0, *(i % 3 + 1 for i in range(1, vocab))], dtype=np.uint16)
    counts = None if mask is None else np.array(mask, dtype=np.uint8)
    return TinyText(np.array(tokens, dtype=np.uint16), starts, counts, token_bytes)


def tiny_architecture(vocab: int = 12, context: int = 8, n_layers: int = 2, tied: bool = True) -> Architecture:
    return Architecture(
        vocab=vocab,
        context=context,
        width=16,
        n_layers=n_layers,
        n_heads=2,
        n_kv_heads=1,
        head_size=8,
        norm=RMSNorm(1e-6),
        position=Rotary(1e4),
        mlp=SwiGLU(24),
        qk_norm=True,
        tied=tied,
    )


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(architecture)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
