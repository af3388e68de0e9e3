"""Packed weights on disk: packed once, memory-mapped from then on.

A packed model is a safetensors file of bytes in the cache's folder `packed`, named by a hash of its inputs: the files
of weights (path, size, time of change), the form of weights and the version of the layout. A JSON file beside it
describes it, with the quantization error. Neither is trusted: names and sizes must be what the architecture needs, or
the file is written again.
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
from nextword.predict.rounding import QuantizationError

_LOG = logging.getLogger(__name__)

LAYOUT_VERSION = 1  # to be raised when what packing writes changes
MIN_FILE_BYTES = 32e6  # bytes: a smaller model is packed each time, which takes milliseconds


@dataclass(frozen=True)
class PackedFile:
    """A packed model of the cache.

    Args:
        path: Its safetensors file.
        source: The name of the file or folder that it was packed from.
        weights: The form that was asked for.
        lossless: Whether every weight is as it was stored.
        quantization_error: None if it was not measured.
    """

    path: Path
    source: str
    weights: str
    lossless: bool
    quantization_error: QuantizationError | None


def packed_folder() -> Path:
    """The folder of packed models; it may not exist yet."""
    return cache_folder() / "packed"


def packed_path(source: Path, weights: Weights) -> Path:
    """The packed file of a model, which may not exist yet; source: the model's file or folder."""
    digest = hashlib.sha256(f"{LAYOUT_VERSION} {weights}".encode())
    for file in [source] if source.is_file() else sorted(source.glob("*.safetensors")):
        found = file.stat()
        digest.update(f"\n{file.resolve()} {found.st_size} {found.st_mtime_ns}".encode())
    return packed_folder() / f"{digest.hexdigest()[:32]}.safetensors"


def load_packed(tensors: Mapping[str, StoredTensor], weights: Weights, path: Path) -> Packed:
    """Packed weights: memory-mapped from a packed file, or else packed now and, unless they are small, written to it.

    A folder that cannot be written to is no error: the weights are packed in memory.

    Args:
        tensors: All tensors of a model, as they are stored.
        weights: The form to pack them in.
        path: The packed file (`packed_path`).

    Raises:
        CorruptFile: As `pack`.
        UnsupportedModel: As `pack`.
    """
    shapes = {name: (form_of(name, tensor, weights), tensor.shape) for name, tensor in tensors.items()}
    if sum(math.prod(packed_shape(*each)) for each in shapes.values()) < MIN_FILE_BYTES:
        return pack(tensors, weights)
    if (found := _read(path, shapes)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if (found := _read(path, shapes)) is not None:  # another process has packed them
                return found
            _LOG.info("Packing the weights for the kernels: once.")
            atomic_write(path, lambda file: _write(file, tensors, shapes))
    except (OSError, NoDiskRoom):
        return pack(tensors, weights)
    return _read(path, shapes) or pack(tensors, weights)


Shapes = Mapping[str, tuple[int, tuple[int, ...]]]  # of each tensor: its packed form and its shape


def _read(path: Path, shapes: Shapes) -> Packed | None:
    """The packed tensors, memory-mapped; None unless they are what the model needs."""
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
    """Pack and write one tensor at a time, so that no more than one is in memory."""
    header: dict[str, Any] = {}
    end = 0
    for name, each in shapes.items():
        shape = packed_shape(*each)
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % LINE)  # tensors begin at cache lines
    file.write(len(text).to_bytes(8, "little") + text)
    for name, (form, _) in shapes.items():
        file.write(np.ascontiguousarray(pack_tensor(name, tensors[name], form).data).data)


def write_description(
    path: Path, source: str, weights: Weights, lossless: bool, error: QuantizationError | None
) -> None:
    """Write the JSON file beside a packed file.

    Args:
        path: The packed file.
        source: The name of the file or folder that it was packed from.
        weights: The form that was asked for.
        lossless: Whether every weight is as it was stored.
        error: The quantization error, if it was measured.
    """
    facts = {
        "source": source,
        "weights": weights,
        "lossless": lossless,
        "quantization_error": None if error is None else asdict(error),
    }
    atomic_write(path.with_suffix(".json"), json.dumps(facts, indent=1).encode())


def read_description(path: Path) -> PackedFile | None:
    """The description beside a packed file; None if there is no valid one."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        error = None if facts["quantization_error"] is None else QuantizationError(**facts["quantization_error"])
        return PackedFile(path, str(facts["source"]), str(facts["weights"]), bool(facts["lossless"]), error)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def packed_files() -> Iterator[PackedFile]:
    """All packed models of the cache that have a description."""
    for path in sorted(packed_folder().glob("*.safetensors")):
        if (found := read_description(path)) is not None:
            yield found
