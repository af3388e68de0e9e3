"""What a removal will do, foreseen from one reading: the change of log p, everything after the cause reacting.

A ledger's share is what a part says to the logit itself. What it says to later parts counts in an experiment, too, and
the gradient of log p holds both (attribution patching: Nanda, 2023; Syed et al., 2023). But a norm divides by the
length of the whole residual: to take much of it away changes what is left, and a gradient there knows nothing of it.
So a change is taken through every norm that reads it as it is, which costs next to nothing, and only from there on to
first order. One reading backwards foresees all removals; the audit then says how well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Norm
from nextword.model.types import Tensor
from nextword.trace.logit.ablation import Writes, side_by_side
from nextword.trace.recording import Recording, block_of


@torch.no_grad()
def estimate_effects(recording: Recording, token: int, changes: Sequence[Writes]) -> npt.NDArray[np.float64]:
    """How much of log p of `token` each change takes away [len(changes)]."""
    readers = list(_readers(recording))
    uphill = _gradients(recording, token, [point for point, *_ in readers])
    added = side_by_side(recording, changes)
    gain = torch.zeros(len(changes), dtype=torch.float64, device=recording.logits.device)
    for point, norm, residual, written in readers:
        standing = sum((added[each] for each in written if each in added), torch.zeros_like(residual))
        moved = norm(residual + standing) - norm(residual)
        gain += (moved @ uphill[point]).double()
    if "norm" in added:
        gain += (added["norm"] @ uphill["norm"]).double()
    lost: npt.NDArray[np.float64] = -gain.cpu().numpy()
    return lost


def _readers(recording: Recording) -> Iterator[tuple[str, Norm, Tensor, list[str]]]:
    """Every norm that reads the residual: its point, itself, what it read [1, width], and the points that wrote it."""
    model, points = recording.model, recording.activations
    residual, written = points["embed"], ["embed"]
    for layer in range(model.architecture.n_layers):
        name, block = f"blocks.{layer}", block_of(model, layer)
        attention, mlp = f"{name}.attention", f"{name}.mlp"
        yield f"{name}.attention_norm", block.attention_norm, residual, written
        if block.parallel:
            yield f"{name}.mlp_norm", block.mlp_norm, residual, written
        else:
            yield f"{name}.mlp_norm", block.mlp_norm, residual + points[attention], [*written, attention]
        residual, written = points[name], [*written, attention, mlp]
    yield "norm", model.norm, residual, written


def _gradients(recording: Recording, token: int, points: Sequence[str]) -> Mapping[str, Tensor]:
    """How log p of `token` grows with what is added at each of the points [.., width] at the last position, [width]."""
    nothing = torch.zeros_like(recording.model.norm.weight).detach()
    with torch.enable_grad():
        added = {point: nothing.clone().requires_grad_() for point in points}
        last = torch.tensor([[recording.ids[-1]]], device=nothing.device)
        logits = recording.model.forward(last, _Continuation(recording), _Adding(added))[0, -1]
        found = torch.autograd.grad(logits.double().log_softmax(-1)[token], list(added.values()))
    return dict(zip(added, found, strict=True))


class _Continuation(KVCache):
    """The cache of all tokens but the last, to which a pass appends without writing: gradients flow through it."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording.model.architecture, 0)
        self._recorded = recording.kv_cache
        self.capacity, self.length = len(recording.ids), len(recording.ids) - 1

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (each[:, :, : self.length] for each in self._recorded.layer(layer))
        return torch.cat([keys, key], 2), torch.cat([values, value], 2)


class _Adding:
    """A hook that adds one vector [width] at each point."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self._vectors = vectors

    def wants(self, name: str) -> bool:
        return name in self._vectors

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return tensor + self._vectors[name]
