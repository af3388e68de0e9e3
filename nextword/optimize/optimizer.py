"""The optimizer: Muon for the matrices inside blocks, AdamW for all other weights.

Embeddings, unembedding, norms and biases follow Adam (Kingma & Ba, 2015) without weight decay. The state is a flat
table of tensors, so it is stored like weights; the number of the step is the trainer's to keep.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nextword.errors import CorruptFile
from nextword.model.types import Tensor
from nextword.optimize.muon import Muon
from nextword.optimize.recipe import Rates


class Optimizer:
    """Muon and Adam over one set of weights, which `step` moves in place.

    Args:
        weights: Named as `nextword.model.architecture.tensor_shapes` says.
        dtype: Of the products that give the update of a matrix; the update itself is in the weights' dtype.
    """

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        matrices = {name: w for name, w in weights.items() if name.startswith("blocks.") and w.ndim == 2}
        self._muon = Muon(matrices, dtype)
        self._adam = Adam({name: w for name, w in weights.items() if name not in matrices})

    def step(self, gradients: Mapping[str, Tensor], number: int, rates: Rates) -> None:
        """Take one step.

        Args:
            gradients: By the weights' names, in their dtypes.
            number: Of the step, from 0.
            rates: Learning rates, momentum and weight decay of the step.
        """
        self._muon.step(gradients, rates.muon_lr, rates.momentum, rates.weight_decay)
        self._adam.step(gradients, rates.adam_lr, number)

    def state(self) -> dict[str, Tensor]:
        """The tensors of momentum and averages by name, not copied: the next step changes them."""
        tables = {"momentum": self._muon.momentum, "mean": self._adam.mean, "square": self._adam.square}
        return {f"{table}.{name}": tensor for table, tensors in tables.items() for name, tensor in tensors.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `state` returned, bit for bit. Raises CorruptFile if names or shapes differ."""
        mine = self.state()
        if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in state.items()}:
            raise CorruptFile("The stored optimizer state is that of another architecture; resume with its own recipe.")
        for name, tensor in mine.items():
            tensor.copy_(state[name])


class Adam:
    """Adam with bias correction (Kingma & Ba, 2015).

    `mean` and `square` are the running averages of the gradient and its square.

    Args:
        weights: Moved in place, by name.
        betas: Decay of the two averages per step.
        eps: Added to the root of the mean square.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-10
    ) -> None:
        self._weights, self._betas, self._eps = dict(weights), betas, eps
        self.mean = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.square = {name: torch.zeros_like(w) for name, w in weights.items()}

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float, number: int) -> None:
        """Move the weights.

        Args:
            gradients: By the weights' names.
            rate: Learning rate.
            number: Of the step, from 0, for the bias correction.
        """
        first, second = self._betas
        mean_bias, square_bias = 1 - first ** (number + 1), 1 - second ** (number + 1)
        for name, weight in self._weights.items():
            mean = self.mean[name].lerp_(gradients[name], 1 - first)
            square = self.square[name].mul_(second).addcmul_(gradients[name], gradients[name], value=1 - second)
            scale = square.sqrt().div_(square_bias**0.5).add_(self._eps)
            weight.addcdiv_(mean, scale, value=-rate / mean_bias)
