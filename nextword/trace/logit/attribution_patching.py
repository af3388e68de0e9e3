"""Attribution patching: the effect of an ablation on log p, estimated from one backward pass, later parts reacting.

A contribution (attribution.py) is what a component adds to the logit itself. What it adds to the input of later parts
counts in an experiment, too, and the gradient of log p holds both (attribution patching: Nanda, 2023; Syed et al.,
2023). But a norm divides by the length of the whole residual: to take much of it away changes what is left, and a
gradient at the residual does not show that. So a change is passed exactly through every norm that reads it, which costs
next to nothing, and only from there on to first order. One backward pass estimates the effects of all ablations; the
audit then says how well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Norm
from nextword.model.types import Tensor
from nextword.trace.logit.ablation import AddingHook, Writes, stacked
from nextword.trace.recording import Recording, block_of, log_probability


@torch.no_grad()
def estimate_effects(recording: Recording, token: int, changes: Sequence[Writes]) -> npt.NDArray[np.float64]:
    """Estimated loss of the log probability of `token` under each change, in nats, float64 [len(changes)].

    Args:
        recording: Of the prompt.
        token: Id of the token.
        changes: What each ablation adds (`ablation_writes`).
    """
    readers = list(_readers(recording))
    gradients = _gradients(recording, token, [point for point, *_ in readers])
    added = stacked(recording, changes)
    gain = torch.zeros(len(changes), dtype=torch.float64, device=recording.logits.device)
    for point, norm, residual, writers in readers:
        before = sum((added[each] for each in writers if each in added), torch.zeros_like(residual))
        moved = norm(residual + before) - norm(residual)
        gain += (moved @ gradients[point]).double()
    if "norm" in added:
        gain += (added["norm"] @ gradients["norm"]).double()
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
        residual, written = points[name], [*written, attention, mlp, name]
    yield "norm", model.norm, residual, written


def _gradients(recording: Recording, token: int, points: Sequence[str]) -> Mapping[str, Tensor]:
    """Gradient of the log probability of `token` at each of the points, at the last position [width]."""
    nothing = torch.zeros_like(recording.model.norm.weight).detach()
    with torch.enable_grad():
        added = {point: nothing.clone().requires_grad_() for point in points}
        last = torch.tensor([[recording.ids[-1]]], device=nothing.device)
        hook = AddingHook({point: vector[None] for point, vector in added.items()})
        logits = recording.model.forward(last, _Continuation(recording), recording.under_edits(hook))[0, -1]
        found = torch.autograd.grad(log_probability(logits, token), list(added.values()))
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
