"""Writing GGUF, llama.cpp's model file: the inverse of `gguf.py`, one tensor in memory at a time.

`read_gguf` reads back the same keys and values, the same shapes, and the same bits for F32; F16 is rounded to the
nearest, Q8_0 and Q4_1 are quantized as ggml does it (`quantize_row_q8_0_ref`, `..._q4_1_ref`). The file appears under
its name only when all of it is on the disk.
Format: ggml/docs/gguf.md, version 3, little endian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nextword.base.atomic import atomic_write
from nextword.errors import UnsupportedModel
from nextword.parameters.gguf import ALIGNMENT, ARRAY, BOOL, MAGIC, SCALARS, STRING, TENSOR_TYPES, U32, U64
from nextword.parameters.quants import BLOCK_FORMATS, Bytes, Floats
from nextword.parameters.stored import rows_and_bytes

_VERSION = 3
_PACKED_WEIGHTS = 1 << 20  # weights: packed at a time
_TYPE_IDS = {form: type_id for type_id, form in TENSOR_TYPES.items()}
_ITEMS = {np.dtype(code.format): type_id for type_id, code in SCALARS.items() if type_id != BOOL}
_INTEGER, _FLOAT = _ITEMS[np.dtype("<u4")], _ITEMS[np.dtype("<f4")]


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written.

    Args:
        name: The tensor's name in the file.
        form: The format to write: "F32", "F16", "Q8_0" or "Q4_1".
        shape: The shape in numpy's order (rows first).
        weights: A function that gives the weights, float32 of this shape; called when the tensor is written.
    """

    name: str
    form: str
    shape: tuple[int, ...]
    weights: Callable[[], Floats]


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Sequence[NewTensor]) -> None:
    """Write a GGUF file, replacing any file of that name.

    Args:
        path: The file.
        metadata: Keys and values: bool, int (written as uint32), float (float32), str, a list of strings, or a numpy
            array of numbers (written in its dtype).
        tensors: The tensors, in the order of the file.

    Raises:
        UnsupportedModel: A format cannot hold the weights of its tensor.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written to.

    >>> weights = np.ones((2, 32), np.float32)
    >>> write_gguf(Path("a.gguf"), {"general.name": "a"}, [NewTensor("w", "Q8_0", (2, 32), lambda: weights)])
    >>> from nextword.parameters.gguf import read_gguf
    >>> read = read_gguf("a.gguf")
    >>> read.metadata, read.tensors["w"].form, read.tensors["w"].nbytes
    ({'general.name': 'a'}, 'Q8_0', 68)
    """
    atomic_write(path, lambda file: _write(file, metadata, tensors))


def _write(file: BinaryIO, metadata: Mapping[str, Any], tensors: Sequence[NewTensor]) -> None:
    file.write(MAGIC + U32.pack(_VERSION) + U64.pack(len(tensors)) + U64.pack(len(metadata)))
    for key, value in metadata.items():
        file.write(_string(key) + _value(value))
    offset = 0
    for tensor in tensors:
        dimensions = b"".join(map(U64.pack, tensor.shape[::-1]))
        kind = U32.pack(_TYPE_IDS[tensor.form])
        file.write(_string(tensor.name) + U32.pack(len(tensor.shape)) + dimensions + kind + U64.pack(offset))
        offset += _aligned(prod(rows_and_bytes(tensor.form, tensor.shape)))
    _pad(file)
    for tensor in tensors:
        weights = tensor.weights()
        assert weights.shape == tensor.shape
        for portion in _portions(weights, BLOCK_FORMATS[tensor.form].block_weights):
            packed = _PACK[tensor.form](portion)
            if packed is None:
                raise UnsupportedModel(
                    f"The tensor {tensor.name} has weights that {tensor.form} cannot hold; write them as f32."
                )
            file.write(packed.data)
        _pad(file)


def _string(text: str) -> bytes:
    data = text.encode()
    return U64.pack(len(data)) + data


def _value(value: Any) -> bytes:
    """A value, with its type before the value."""
    if isinstance(value, bool):
        return U32.pack(BOOL) + SCALARS[BOOL].pack(value)
    if isinstance(value, int):
        return U32.pack(_INTEGER) + SCALARS[_INTEGER].pack(value)
    if isinstance(value, float):
        return U32.pack(_FLOAT) + SCALARS[_FLOAT].pack(value)
    if isinstance(value, str):
        return U32.pack(STRING) + _string(value)
    kind, items = (
        (_ITEMS[value.dtype], value.tobytes())
        if isinstance(value, np.ndarray)
        else (STRING, b"".join(map(_string, value)))
    )
    return U32.pack(ARRAY) + U32.pack(kind) + U64.pack(len(value)) + items


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_aligned(file.tell()) - file.tell()))


def _portions(weights: Floats, block: int) -> list[Floats]:
    """The weights in order, in portions of float32 [blocks, weights of a block]."""
    blocks = weights.reshape(-1, block)
    step = _PACKED_WEIGHTS // block
    return [blocks[start : start + step] for start in range(0, len(blocks), step)]


def _f32(blocks: Floats) -> npt.NDArray[Any] | None:
    return blocks.astype("<f4")


def _f16(blocks: Floats) -> npt.NDArray[Any] | None:
    with np.errstate(over="ignore"):
        halves = blocks.astype("<f2")
    return halves if np.isfinite(halves).all() else None


def _q8_0(blocks: Floats) -> Bytes | None:
    """block_q8_0 {half d; int8 qs[32]}: d = max |w| / 127, q = w / d to the nearest integer, halves away from 0."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        inverses = np.where(scales == 0, np.float32(0), 1 / scales)
        scaled = blocks * inverses
        halves = scales.astype("<f2")
    if not (np.isfinite(halves).all() and np.isfinite(scaled).all()):
        return None
    whole = np.trunc(scaled)
    nearest = (whole + np.trunc(2 * (scaled - whole))).astype(np.int8)
    return np.concatenate([halves.view(np.uint8), nearest.view(np.uint8)], axis=1)


def _q4_1(blocks: Floats) -> Bytes | None:
    """block_q4_1 {half d, m; uint8 qs[16]}: m = min w, d = (max w - m) / 15, q = (w - m) / d to the nearest integer."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        least = blocks.min(axis=1, keepdims=True)
        scales = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
        inverses = np.where(scales == 0, np.float32(0), 1 / scales)
        scaled = (blocks - least) * inverses + np.float32(0.5)
        halves = np.concatenate([scales, least], axis=1).astype("<f2")
    if not (np.isfinite(halves).all() and np.isfinite(scaled).all()):
        return None
    q = np.minimum(scaled, 15).astype(np.uint8)
    return np.concatenate([halves.view(np.uint8), q[:, :16] | (q[:, 16:] << 4)], axis=1)


_PACK: Mapping[str, Callable[[Floats], npt.NDArray[Any] | None]] = {
    "F32": _f32,
    "F16": _f16,
    "Q8_0": _q8_0,
    "Q4_1": _q4_1,
}
