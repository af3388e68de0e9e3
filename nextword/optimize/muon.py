"""Muon: momentum whose update of every matrix is turned into the nearest orthogonal matrix.

For the weight matrices inside blocks (Jordan et al., Muon: An optimizer for hidden layers in neural networks,
2024). Nesterov momentum gives a direction M = U S V^T; the update is about U V^T, so that every direction of a
matrix learns at the same speed. The polar factor comes from a few matrix products with the coefficients of Polar
Express (Amsel et al., 2025). Weight decay is cautious: it acts only on weights that the update, too, moves towards
zero (Chen et al., 2025). `torch.optim.Muon` is the same rule without cautious decay, one matrix at a time and with
other coefficients; here matrices of one shape, whatever their orientation, go through the products together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from nextword.model.types import Tensor

# Polynomials a x + b x^3 + c x^5 that, one after the other, bring every singular value in [0.001, 1] close to 1:
# the greedy minimax choice of Polar Express with its safety factor for bfloat16.
_POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


class Muon:
    """Muon over the given matrices, which `step` moves in place. Its state is `momentum`.

    Args:
        matrices: By name.
        dtype: Of the matrix products. bfloat16 is precise enough for an update, and fast on a device made for it; on
            others it is many times slower.
    """

    def __init__(self, matrices: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        self._matrices, self._dtype = dict(matrices), dtype
        self.momentum = {name: torch.zeros_like(matrix) for name, matrix in matrices.items()}
        self._groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, matrix in matrices.items():
            self._groups[tuple(sorted(matrix.shape))].append(name)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float, momentum: float, decay: float) -> None:
        """Move each matrix [out, in] by rate * sqrt(max(1, out / in)) * orthogonal(momentum).

        Args:
            gradients: By the matrices' names, in their shapes.
            rate: Learning rate.
            momentum: Share of the running average that is kept, between 0 and 1.
            decay: Weight decay, multiplied with the rate.
        """
        for names in self._groups.values():
            directions = []
            for name in names:
                average = self.momentum[name].lerp_(gradients[name], 1 - momentum)
                direction = gradients[name].lerp(average, momentum)
                directions.append(direction if len(direction) <= direction.shape[1] else direction.mT)
            for name, update in zip(names, orthogonal(torch.stack(directions).to(self._dtype)), strict=True):
                self._move(self._matrices[name], update, rate, decay)

    @staticmethod
    def _move(matrix: Tensor, update: Tensor, rate: float, decay: float) -> None:
        rows, columns = matrix.shape
        update = update.to(matrix.dtype)
        update = update if rows <= columns else update.mT
        if decay:
            matrix -= rate * decay * matrix * (matrix * update > 0)
        matrix.sub_(update, alpha=rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices whose rows are orthonormal, [k, m, n] with m <= n, in the dtype of `matrices`.

    Singular values come out within a few per cent of 1, unless they were below about a thousandth of the norm.
    """
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in _POLYNOMIALS:
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x
