"""What a removal will do, foreseen: the change of log p to first order, everything after the cause reacting.

A ledger's share is what a part says to the logit itself. What it says to later parts counts in an experiment, too; the
gradient of log p at the place where a part writes holds both. One reading backwards foresees all removals (attribution
patching: Nanda, 2023; Syed et al., 2023); the audit then says how well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from nextword.model.memory import Memory
from nextword.trace.recording import Recording, held

Tensor = torch.Tensor


def gradients(recording: Recording, token: int, points: Iterable[str]) -> Mapping[str, Tensor]:
    """How log p of `token` grows with what is added at each of the points [.., width] at the last position, [width]."""
    nothing = torch.zeros_like(recording.model.norm.weight).detach()
    with torch.enable_grad():
        added = {point: nothing.clone().requires_grad_() for point in points}
        last = torch.tensor([[recording.ids[-1]]], device=nothing.device)
        logits = recording.model.forward(last, _Unwritten(recording), _Adding(added))[0, -1]
        found = torch.autograd.grad(logits.double().log_softmax(-1)[token], list(added.values()))
    return dict(zip(added, found, strict=True))


class _Unwritten(Memory):
    """All tokens but the last, in room that is never written to: gradients pass through what is put beside them."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.capacity = len(recording.ids)
        self.length = len(recording.ids) - 1

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        known = held(self._recording.memory, layer, self._recording.model.architecture)
        keys, values = (each[:, :, : self.length] for each in known)
        return torch.cat([keys, key], 2), torch.cat([values, value], 2)


class _Adding:
    """A probe that adds one vector [width] at each point."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self._vectors = vectors

    def wants(self, name: str) -> bool:
        return name in self._vectors

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return tensor + self._vectors[name]
