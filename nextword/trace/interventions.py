"""Interventions: change what happens at named points, and let the model go on with it.

    Scale(point, factor)       0 ablates, 1 changes nothing
    Steer(point, vector)       adds a direction (activation steering: Turner et al., 2023)
    Patch(point, values)       puts what was recorded elsewhere in its place (activation patching: Vig et al., 2020;
                               `patch_from` records it)

Each acts at one hook point (docs/reference/hook-points.md): on all of it or on one `unit` (a head where the point has
heads, else one number of the width), at all positions, those to come included, or at the `positions` given.
`edited_engine` runs under edits and is an engine like any other, so generation has no second loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from nextword.errors import InputError
from nextword.model.architecture import Architecture
from nextword.model.hooks import point_names
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.predict.torch_engine import TorchEngine
from nextword.trace.recording import Recorder, check_prompt

_PER_HEAD = (".query", ".key", ".value", ".scores", ".pattern", ".z")  # points of shape [batch, heads, time, ...]


@dataclass(frozen=True)
class Scale:
    """Multiplies what is at a point.

    Args:
        point: Name of the hook point.
        factor: 0 ablates, 1 changes nothing.
        unit: The head, or the number of the width, that is changed; None: all.
        positions: Those that are changed, from 0; None: all, those to come included.
    """

    point: str
    factor: float
    unit: int | None = None
    positions: tuple[int, ...] | None = None


def _real(numbers: object) -> Tensor:
    """A tensor of real numbers from a tensor, an array or nested lists. Raises InputError."""
    try:
        found = torch.as_tensor(numbers)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"An edit holds numbers, as a tensor, an array or lists, not {numbers!r:.60}.") from error
    if found.is_complex():
        raise InputError("An edit holds real numbers, not complex ones.")
    return found


@dataclass(frozen=True, eq=False)
class Steer:
    """Adds a vector to what is at a point.

    Args:
        point: Name of the hook point.
        vector: [width], or where the point has heads [heads, head size]; for one unit [head size], or [] for one number
            of a width.
        unit: The head, or the number of the width, that is changed; None: all.
        positions: Those that are changed, from 0; None: all, those to come included.
    """

    point: str
    vector: Tensor
    unit: int | None = None
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _real(self.vector))


@dataclass(frozen=True, eq=False)
class Patch:
    """Puts values in the place of those at a point.

    Args:
        point: Name of the hook point.
        values: One row for each of `positions` [positions, ...], each of the shape that `Steer.vector` has there.
        positions: Those that are changed, from 0, in the order of the rows.
        unit: The head, or the number of the width, that is changed; None: all.
    """

    point: str
    values: Tensor
    positions: tuple[int, ...]
    unit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _real(self.values))


Edit = Scale | Steer | Patch


@torch.no_grad()
def patch_from(
    model: Transformer,
    ids: Sequence[int],
    point: str,
    positions: Sequence[int],
    *,
    into: Sequence[int] | None = None,
    unit: int | None = None,
) -> Patch:
    """A patch with the activations of another prompt.

    Args:
        model: The reference model.
        ids: The other prompt's.
        point: Name of the hook point.
        positions: Those of the other prompt whose activations are taken.
        into: The positions that the patch changes, one for each of these; None: the same.
        unit: The head, or the number of the width, that is taken; None: all.

    Raises:
        InputError: The point, the unit or a position does not exist, or the two lists differ in length.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    check_prompt(ids, model.architecture)
    _check(Scale(point, 1.0, unit, tuple(positions)), model.architecture)
    target = tuple(positions if into is None else into)
    if len(target) != len(positions) or any(position >= len(ids) for position in positions):
        raise InputError(
            f"Give one position to patch for each that is recorded, and only positions of the {len(ids)} tokens."
        )
    points = Recorder(lambda name: name == point)
    model(torch.tensor([list(ids)], device=model.embed.weight.device), hook=points)
    seen = _selected(points.activations[point], point, unit)[0]
    return Patch(point, seen[list(positions)], target, unit)


def _selected(tensor: Tensor, point: str, unit: int | None) -> Tensor:
    """The part of a tensor that an edit changes, with time second [batch, time, ...]: a view, to be written to."""
    if point.endswith(_PER_HEAD):
        heads = tensor.transpose(1, 2)
        return heads if unit is None else heads[:, :, unit]
    return tensor if unit is None else tensor[..., unit]


class EditHook:
    """A hook that applies edits."""

    def __init__(self, edits: Sequence[Edit], start: int) -> None:
        """Apply `edits` in a pass whose first token stands at position `start` of the text."""
        self._edits, self._start = edits, start
        self._points = {edit.point for edit in edits}

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return name in self._points

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        edited = tensor.clone()
        for edit in self._edits:
            if edit.point == name:
                self._apply(edit, _selected(edited, name, edit.unit))
        return edited

    def _apply(self, edit: Edit, tensor: Tensor) -> None:
        time = tensor.shape[1]
        positions = range(self._start, self._start + time) if edit.positions is None else edit.positions
        for number, position in enumerate(positions):
            if not 0 <= position - self._start < time:
                continue
            here = tensor[:, position - self._start]
            match edit:
                case Scale(factor=factor):
                    here.mul_(factor)
                case Steer(vector=vector):
                    here.add_(vector.to(here))
                case Patch(values=values):
                    here.copy_(values[number].to(here).expand_as(here))


def edited_engine(model: Transformer, edits: Sequence[Edit]) -> TorchEngine:
    """An engine whose every pass runs under edits, for predicting and generating.

    Raises InputError for an edit whose point, unit or shape the model does not have.
    """
    check_edits(edits, model.architecture)
    return TorchEngine.of(model, partial(EditHook, tuple(edits)))


def check_edits(edits: Sequence[Edit], architecture: Architecture) -> None:
    """Raise InputError unless every edit's point, unit, positions, shape and numbers fit the model."""
    for edit in edits:
        _check(edit, architecture)


def _check(edit: Edit, a: Architecture) -> None:
    if not isinstance(edit, Edit):
        raise InputError(f"{edit!r:.60} is no edit; give a Scale, a Steer or a Patch of nextword.trace.interventions.")
    where = [edit.unit, *edit.positions] if isinstance(edit.positions, tuple | list | range) else [edit.unit]
    rows_fit = edit.positions is None or isinstance(edit.positions, tuple | list | range)
    if not rows_fit or any(type(each) is not int for each in where if each is not None):
        raise InputError(
            "A unit is a whole number, and positions are a row of them: Scale(point, 0, unit=5, positions=(3, 4))."
        )
    if isinstance(edit, Scale) and not isinstance(edit.factor, int | float):
        raise InputError(f"A factor is a number, not {edit.factor!r:.40}.")
    if edit.point not in set(point_names(a)):
        raise InputError(
            f"There is no point {edit.point!r:.60} in this model; nextword.model.hooks.point_names lists them."
        )
    if edit.point.endswith(".scores") or (edit.point.endswith(".pattern") and not isinstance(edit, Scale)):
        raise InputError("Scores and patterns grow with the text: scale a pattern, or edit query, key, value or z.")
    units, rest = _shape(edit.point, a)
    if edit.unit is not None and not 0 <= edit.unit < units:
        raise InputError(f"The point {edit.point} has units 0 to {units - 1}, not {edit.unit}.")
    if edit.positions is not None and any(not 0 <= position < a.context for position in edit.positions):
        raise InputError(f"Positions go from 0 to {a.context - 1}, the end of the model's context.")
    numbers = edit.factor if isinstance(edit, Scale) else edit.vector if isinstance(edit, Steer) else edit.values
    if not torch.as_tensor(numbers).isfinite().all():
        raise InputError(
            f"The edit at {edit.point} holds numbers that are not finite (nan or infinite); give finite ones."
        )
    if isinstance(edit, Scale):
        return
    whole = (units, *rest) if edit.unit is None else rest
    given = tuple(edit.vector.shape) if isinstance(edit, Steer) else tuple(edit.values.shape)
    wanted = whole if isinstance(edit, Steer) else (len(edit.positions), *whole)
    if given != wanted:
        raise InputError(f"At {edit.point} this edit needs values of shape {list(wanted)}, not {list(given)}.")


def _shape(point: str, a: Architecture) -> tuple[int, tuple[int, ...]]:
    """The number of units that a point has at one position, and the shape of each."""
    if point.endswith((".key", ".value")):
        return a.n_kv_heads, (a.head_size,)
    if point.endswith(_PER_HEAD):
        return a.n_heads, (a.head_size,)
    if point.endswith(".scale"):
        return 1, ()
    if point.endswith((".gate", ".up", ".activation")):
        return a.mlp.width, ()
    return (a.vocab if point == "logits" else a.width), ()
