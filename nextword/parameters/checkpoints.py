"""The files of one checkpoint: everything that training needs to go on as if it had never stopped.

    tensors.safetensors   weights and optimizer state, their exact bits
    state.json            recipe, step and other numbers

A checkpoint appears under its name only when all of it is on the disk, so one that can be seen is whole. Where
checkpoints lie is known to `nextword.parameters.run_folder` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nextword.base.atomic import atomic_folder, flush_to_disk
from nextword.errors import CorruptFile


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name, and `numbers` as JSON holds them."""

    tensors: Mapping[str, npt.NDArray[Any]]
    numbers: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as the new folder `folder`. Raises NoDiskRoom, and then leaves nothing of it behind."""
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    with atomic_folder(folder) as temporary:
        _write(temporary / "tensors.safetensors", save(arrays))
        _write(temporary / "state.json", json.dumps(checkpoint.numbers, indent=2).encode())


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises CorruptFile if it is missing or damaged."""
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


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        flush_to_disk(file)
