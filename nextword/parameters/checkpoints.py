"""Checkpoints of a training run: everything that training needs to go on as if it had never stopped.

    RUN/checkpoints/step-000512/tensors.safetensors   weights and optimizer state, their exact bits
    RUN/checkpoints/step-000512/state.json            recipe, step and other numbers

A checkpoint appears under its name only when all of it is on the disk, so one that can be seen is whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nextword.base.atomic import atomic_folder, flush_to_disk
from nextword.errors import CorruptFile, InputError, ModelNotFound

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name, and `numbers` as JSON holds them."""

    tensors: Mapping[str, npt.NDArray[Any]]
    numbers: Mapping[str, Any]


def save_checkpoint(run: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint after `step` steps; one that is already there holds the same, and is kept.

    Raises NoDiskRoom, and then leaves nothing of it behind.
    """
    folder = checkpoint_folder(run, step)
    if folder.exists():
        return
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    with atomic_folder(folder) as temporary:
        _write(temporary / "tensors.safetensors", save(arrays))
        _write(temporary / "state.json", json.dumps(checkpoint.numbers, indent=2).encode())


def checkpoint_steps(run: Path) -> list[int]:
    """The steps after which a checkpoint was saved, in order."""
    found = (_NAME.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(match.group(1)) for match in found if match)


def run_steps(run: Path) -> list[int]:
    """The steps after which the run left a checkpoint. Raises ModelNotFound for a folder without any."""
    steps = checkpoint_steps(run)
    if not steps:
        raise ModelNotFound(f"{run} is not the folder of a run; give one that `nextword train` made.")
    return steps


def find_checkpoint(run: Path, step: int) -> Checkpoint:
    """The checkpoint after `step` steps. Raises ModelNotFound, InputError for a step without one, CorruptFile."""
    if step not in (steps := run_steps(run)):
        raise InputError(f"{run} has no checkpoint after {step} steps; it has them after {', '.join(map(str, steps))}.")
    return load_checkpoint(run, step)


def load_checkpoint(run: Path, step: int) -> Checkpoint:
    """Read the checkpoint of a step. Raises CorruptFile if it is missing or damaged."""
    folder = checkpoint_folder(run, step)
    try:
        tensors = load_file(folder / "tensors.safetensors")
        numbers = json.loads((folder / "state.json").read_bytes())
        if not isinstance(numbers, dict):
            raise ValueError("state.json does not hold an object")
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptFile(
            f"The checkpoint {folder} cannot be read ({error}); remove it to use the one before."
        ) from error
    return Checkpoint(tensors, numbers)


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        flush_to_disk(file)
