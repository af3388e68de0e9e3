"""Activations: what stands at named points of a forward pass, at all positions, under edits or not.

    activations = record_activations(model, ids, ["blocks.*.attention.z", "norm"])
    activations["blocks.3.attention.z"]                 # [heads, time, head size]

The names and shapes are those of docs/reference/hook-points.md, without the batch dimension. Where attention's scores
or pattern are recorded, its softmax is opened, and they take [heads, time, time].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch

from nextword.errors import InputError
from nextword.model.hooks import point_names
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.interventions import Edit, EditHook, check_edits
from nextword.trace.recording import HookChain, Recorder, check_prompt

MOST_TOKENS = 4096  # tokens: of all rows of one forward pass; bounds the activations of a batch of edits


class Activations(Mapping[str, Tensor]):
    """Tensors by the name of their hook point, in the order of the forward pass; the batch dimension is taken off.

    Attributes:
        ids: The token ids that were read.
    """

    def __init__(self, ids: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        self.ids = tuple(ids)
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise KeyError(f"{name!r} was not recorded; there are {', '.join(self._tensors)}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        rows = [f"  {name:<36} {list(tensor.shape)}" for name, tensor in self._tensors.items()]
        return "\n".join([f"<Activations of {len(self.ids)} tokens at {len(rows)} points>", *rows])


@torch.no_grad()
def record_activations(
    model: Transformer, ids: Sequence[int], points: Sequence[str] = ("*",), edits: Sequence[Edit] = ()
) -> Activations:
    """Run one forward pass and keep what stands at hook points, at all positions.

    Args:
        model: The reference model.
        ids: The token ids to read, at least one.
        points: Names of hook points; `*` stands for any part of a name, so "blocks.*.mlp" is every MLP's output.
        edits: Edits under which the pass is run; what is kept at a point is what its edits made of it.

    Raises:
        InputError: No point has such a name, or an edit does not fit the model.
        EmptyPrompt, ContextOverflow, UnknownToken: The model cannot read `ids`.
    """
    check_prompt(ids, model.architecture)
    check_edits(edits, model.architecture)
    names = list(point_names(model.architecture))
    wanted: set[str] = set()
    for pattern in points:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"There is no point {pattern!r:.60} in this model; points are named like {names[0]}, {names[1]} and "
                f"{names[-1]} (nextword.model.hooks)."
            )
        wanted.update(found)
    recorder = Recorder(wanted.__contains__)
    row = torch.tensor([list(ids)], device=model.embed.weight.device)
    model(row, hook=HookChain(EditHook(edits, 0), recorder))
    return Activations(ids, {name: tensor[0] for name, tensor in recorder.activations.items()})


class _EditRows:
    """A hook that applies a set of edits of its own to each row of a batch."""

    def __init__(self, rows: Sequence[Sequence[Edit]]) -> None:
        self._hooks = [EditHook(edits, 0) for edits in rows]

    def wants(self, name: str) -> bool:
        return any(hook.wants(name) for hook in self._hooks)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        rows = zip(self._hooks, torch.split(tensor, 1), strict=True)
        return torch.cat([hook(name, row) if hook.wants(name) else row for hook, row in rows])


@torch.no_grad()
def logits_under_each(model: Transformer, ids: Sequence[int], edits: Sequence[Sequence[Edit]]) -> Tensor:
    """Logits of the next token under each of several sets of edits, many sets in one forward pass [sets, vocab].

    Args:
        model: The reference model.
        ids: The token ids to read, at least one; the same under every set.
        edits: The sets; an empty one is the model as it is.

    Raises:
        InputError: An edit does not fit the model.
        EmptyPrompt, ContextOverflow, UnknownToken: The model cannot read `ids`.
    """
    check_prompt(ids, model.architecture)
    for each in edits:
        check_edits(each, model.architecture)
    at_once = max(1, MOST_TOKENS // len(ids))
    rows = [model.logits(model.norm.weight.new_zeros(0, model.architecture.width))]
    for start in range(0, len(edits), at_once):
        batch = edits[start : start + at_once]
        row = torch.tensor([list(ids)] * len(batch), device=model.embed.weight.device)
        rows.append(model(row, hook=_EditRows(batch))[:, -1])
    return torch.cat(rows)
