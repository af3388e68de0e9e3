"""Initialization: the random weights that a model starts from, as a function of its architecture and a seed."""

from __future__ import annotations

import torch

from nextword.model.architecture import Architecture, tensor_shapes
from nextword.model.types import Tensor


def initial_weights(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """Random weights, float32 in memory of the CPU; they depend on nothing but these two values.

    What a block adds to the residual starts at zero, so the model starts as its embedding alone; norms start at 1,
    biases at 0, other matrices with variance 1 / inputs, embeddings with a standard deviation of 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(architecture).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
        elif name.endswith((".bias", "attention.output.weight", "mlp.down.weight")):
            weights[name] = torch.zeros(shape)
        else:
            std = shape[1] ** -0.5 if name.startswith("blocks.") else 0.02
            weights[name] = torch.randn(shape, generator=generator) * std
    return weights
