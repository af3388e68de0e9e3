"""Packed weights on disk: packed once, mapped into memory ever after.

A packed model is a safetensors file of bytes in the cache's folder `packed`, named by a hash of what it was made
of: the files of weights (path, size, time of change), the form asked for and the version of the layout. Beside it a
JSON file says how much packing changed the model. Nothing read from it is believed: names and sizes must be what
the architecture needs, or the file is written anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nextword.base.atomic import atomic_write, locked
from nextword.errors import ModelError, NoDiskRoom
from nextword.parameters.cache import cache_folder
from nextword.parameters.safetensors import read_safetensors
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.memory import LINE
from nextword.predict.cpu.packed import Packed, PackedTensor, form_of, pack, pack_tensor, packed_shape
from nextword.predict.engine import Weights
from nextword.predict.rounding import Loss

_LOG = logging.getLogger(__name__)

LAYOUT = 1  # raise it when what packing writes changes
SMALL = 32e6  # bytes: less is packed each time, which takes a blink


@dataclass(frozen=True)
class PackedFile:
    """A packed model of the cache: its file, what it was made of, the form, and the loss if it was measured."""

    path: Path
    source: str
    weights: str
    lossless: bool
    loss: Loss | None


def packed_folder() -> Path:
    """Where packed models are kept; it may not exist yet."""
    return cache_folder() / "packed"


def packed_path(source: Path, weights: Weights) -> Path:
    """The file that holds, or will hold, the packed weights of the model in this file or folder."""
    digest = hashlib.sha256(f"{LAYOUT} {weights}".encode())
    for file in [source] if source.is_file() else sorted(source.glob("*.safetensors")):
        found = file.stat()
        digest.update(f"\n{file.resolve()} {found.st_size} {found.st_mtime_ns}".encode())
    return packed_folder() / f"{digest.hexdigest()[:32]}.safetensors"


def load_packed(tensors: Mapping[str, StoredTensor], weights: Weights, path: Path) -> Packed:
    """The packed weights from `path`, or else packed now and, unless they are small, kept there.

    Raises as `pack`. A folder that cannot be written to is no error: the weights are packed in memory.
    """
    shapes = {name: (form_of(name, tensor, weights), tensor.shape) for name, tensor in tensors.items()}
    if sum(math.prod(packed_shape(*each)) for each in shapes.values()) < SMALL:
        return pack(tensors, weights)
    if (found := _read(path, shapes)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if (found := _read(path, shapes)) is not None:  # another process was faster
                return found
            _LOG.info("Packing the weights for the kernels: once.")
            atomic_write(path, lambda file: _write(file, tensors, shapes))
    except (OSError, NoDiskRoom):
        return pack(tensors, weights)
    return _read(path, shapes) or pack(tensors, weights)


Shapes = Mapping[str, tuple[int, tuple[int, ...]]]


def _read(path: Path, shapes: Shapes) -> Packed | None:
    """The packed tensors, mapped into memory; None unless they are what the model needs."""
    try:
        stored = read_safetensors(path)
    except ModelError:
        return None
    if stored.keys() != shapes.keys():
        return None
    packed = {}
    for name, (form, shape) in shapes.items():
        tensor = stored[name]
        if tensor.form != "U8" or tensor.shape != packed_shape(form, shape):
            return None
        packed[name] = PackedTensor(form, shape, tensor.data.reshape(tensor.shape))
    return packed if all(tensor.address % LINE == 0 for tensor in packed.values()) else None


def _write(file: BinaryIO, tensors: Mapping[str, StoredTensor], shapes: Shapes) -> None:
    """One tensor at a time: no more than one is in memory."""
    header: dict[str, Any] = {}
    end = 0
    for name, each in shapes.items():
        shape = packed_shape(*each)
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % LINE)  # so that tensors begin where vectors of lanes may
    file.write(len(text).to_bytes(8, "little") + text)
    for name, (form, _) in shapes.items():
        file.write(np.ascontiguousarray(pack_tensor(name, tensors[name], form).data).data)


def write_loss(path: Path, source: str, weights: Weights, lossless: bool, loss: Loss | None) -> None:
    """Say beside the packed file what it is."""
    facts = {"source": source, "weights": weights, "lossless": lossless, "loss": None if loss is None else asdict(loss)}
    atomic_write(path.with_suffix(".json"), json.dumps(facts, indent=1).encode())


def read_loss(path: Path) -> PackedFile | None:
    """What is said beside a packed file; None if nothing that makes sense is."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        loss = None if facts["loss"] is None else Loss(**facts["loss"])
        return PackedFile(path, str(facts["source"]), str(facts["weights"]), bool(facts["lossless"]), loss)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def packed_files() -> Iterator[PackedFile]:
    """All packed models of the cache that say what they are."""
    for path in sorted(packed_folder().glob("*.safetensors")):
        if (found := read_loss(path)) is not None:
            yield found
