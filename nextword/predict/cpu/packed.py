"""Weights in the form that the CPU kernels read: matrices as tiles (kernels/matmul.py), vectors as float32.

`pack` turns stored tensors into packed ones. What is stored as Q8_0, Q4_0, Q4_1, Q4_K, bfloat16, float16 or float32
can be packed without changing a weight ("auto" does); Q5 and Q6 become INT8. The other choices put every matrix
into one form, and round where they must:

    fp32, bf16    each weight to the nearest
    int8          groups of 32 along a row: scale = largest magnitude / 127 (float16), q to the nearest
    int4          the same, from the least weight (minimum) to the largest: 16 levels; Q4 stays as it is

Vectors and the table of positions, of which a token reads one row, keep their precision in every form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.errors import CorruptFile, UnsupportedModel
from nextword.parameters.quants import Bytes, Floats, six_bit_scales
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.layout import BF16, FP16, FP32, GROUP, GROUP_BYTES, INT4, INT4_WIDE, INT8, LANES
from nextword.predict.cpu.memory import aligned, reserve_large
from nextword.predict.engine import Weights

_LOSSLESS = {
    "F32": FP32,
    "BF16": BF16,
    "F16": FP16,
    "Q8_0": INT8,
    "Q4_0": INT4,
    "Q4_1": INT4,
    "Q4_K": INT4_WIDE,
}
_CHUNK = 1 << 20  # weights packed at a time: bounds what packing needs beside its result


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A matrix as tiles, uint8 [tiles, groups, GROUP_BYTES[form]], or a vector as FP32, uint8 [bytes], whole LANES."""

    form: int
    shape: tuple[int, ...]
    data: Bytes

    @property
    def address(self) -> int:
        """Where its bytes begin; they must be kept alive by whoever uses it."""
        return self.data.ctypes.data


Packed = Mapping[str, PackedTensor]


def pack(tensors: Mapping[str, StoredTensor], weights: Weights = "auto") -> dict[str, PackedTensor]:
    """All tensors of a model, packed.

    Raises CorruptFile for a weight that is no finite number, UnsupportedModel
    for one that the form cannot hold, with the tensor's name.
    """
    forms = {name: form_of(name, tensor, weights) for name, tensor in tensors.items()}
    shapes = {name: packed_shape(forms[name], tensor.shape) for name, tensor in tensors.items()}
    room, packed, begin = reserve_large(sum(map(math.prod, shapes.values()))), {}, 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape)  # a multiple of a cache line, whatever the form
        packed[name] = pack_tensor(name, tensors[name], forms[name], room[begin:end].reshape(shape))
        begin = end
    return packed


def form_of(name: str, tensor: StoredTensor, weights: Weights) -> int:
    """The packed form of a tensor."""
    if len(tensor.shape) < 2:
        return FP32
    stored = _LOSSLESS.get(tensor.form, FP32)
    if name == "position.weight":
        return stored if stored in (FP32, BF16, FP16) else FP32
    if weights == "auto":
        return INT8 if tensor.form in ("Q5_0", "Q5_1", "Q5_K", "Q6_K") else stored
    if weights == "int4":
        return stored if stored in (INT4, INT4_WIDE) else INT4
    return {"fp32": FP32, "bf16": BF16, "int8": INT8}[weights]


def is_lossless(tensor: StoredTensor, form: int) -> bool:
    """Whether packing keeps every weight as it is."""
    return form == FP32 or _LOSSLESS.get(tensor.form) == form


def packed_shape(form: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the bytes of a packed tensor."""
    if len(shape) < 2:
        return (-(-math.prod(shape) // LANES) * LANES * 4,)
    return -(-shape[0] // LANES), -(-shape[1] // GROUP), GROUP_BYTES[form]


def pack_tensor(name: str, tensor: StoredTensor, form: int, data: Bytes | None = None) -> PackedTensor:
    """One tensor, packed into `data`, zeros of its packed shape, or into an array of its own. Raises as `pack`."""
    if data is None:
        data = aligned(packed_shape(form, tensor.shape), np.uint8)
    try:
        if len(tensor.shape) < 2:
            values = tensor.dequantize().reshape(-1)
            _check_finite(values)
            data.view(np.float32)[: len(values)] = values
            return PackedTensor(FP32, tensor.shape, data)
        for first, chunk in _chunks(tensor):
            _TILES[form](chunk, data[first // LANES : -(-(first + chunk.shape[0]) // LANES)])
        return PackedTensor(form, tensor.shape, data)
    except _NotFinite:
        raise CorruptFile(f"The tensor {name} holds a weight that is infinite or undefined (NaN).") from None
    except _TooLarge:
        raise UnsupportedModel(
            f"The tensor {name} holds weights too large for the form that was asked for; use --weights fp32."
        ) from None


class _NotFinite(Exception):
    """A weight is infinite or undefined."""


class _TooLarge(Exception):
    """A scale does not fit."""


def _check_finite(values: npt.NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise _NotFinite


def _chunks(tensor: StoredTensor) -> Iterator[tuple[int, StoredTensor]]:
    """The matrix in runs of whole tiles, each with the number of its first row."""
    step = max(1, _CHUNK // (tensor.shape[1] * LANES)) * LANES
    for first in range(0, tensor.shape[0], step):
        yield first, tensor.rows(slice(first, first + step))


def _padded(rows: npt.NDArray[Any], tiles: int, groups: int) -> npt.NDArray[Any]:
    """[rows, groups, ...] with zeros below: [tiles, LANES, groups, ...]."""
    whole = np.zeros((tiles * LANES, groups, *rows.shape[2:]), rows.dtype)
    whole[: rows.shape[0]] = rows
    return whole.reshape(tiles, LANES, groups, *rows.shape[2:])


def _groups(chunk: StoredTensor) -> Floats:
    """The weights, float32 [rows, groups, GROUP], zeros at the end of a row. Raises _NotFinite."""
    values = chunk.dequantize()
    _check_finite(values)
    rows, columns = values.shape
    groups = -(-columns // GROUP)
    if columns == groups * GROUP:
        return values.reshape(rows, groups, GROUP)
    wide = np.zeros((rows, groups * GROUP), np.float32)
    wide[:, :columns] = values
    return wide.reshape(rows, groups, GROUP)


def _float_tiles(
    dtype: npt.DTypeLike, to: Callable[[Floats], npt.NDArray[Any]]
) -> Callable[[StoredTensor, Bytes], None]:
    def fill(chunk: StoredTensor, data: Bytes) -> None:
        tiles, groups, _ = data.shape
        values = _padded(to(_groups(chunk)), tiles, groups)  # [tiles, lanes, groups, columns]
        data.view(dtype).reshape(tiles, groups, GROUP, LANES)[:] = values.transpose(0, 2, 3, 1)

    return fill


def _nearest_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, halves to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _nearest_fp16(values: Floats) -> npt.NDArray[np.float16]:
    return values.astype(np.float16)


def _int8_tiles(chunk: StoredTensor, data: Bytes) -> None:
    """32 scales, then the bytes q + 128 of four columns of each of 32 outputs, eight times."""
    tiles, groups, _ = data.shape
    if chunk.form == "Q8_0":
        blocks = chunk.data.reshape(chunk.shape[0], groups, 34)
        scales, q = blocks.view("<f2")[..., 0], blocks[..., 2:] ^ np.uint8(0x80)
        _check_finite(scales)
    else:
        values = _groups(chunk)
        scales = _scale(np.abs(values).max(-1) / 127)
        q = (_levels(values, scales, -127, 127) + 128).astype(np.uint8)
    data[..., :64] = _scale_bytes(scales, tiles, groups)
    data[..., 64:] = _quads(q, tiles, groups, 8)


def _int4_tiles(chunk: StoredTensor, data: Bytes) -> None:
    """32 scales, 32 minima, then two columns a byte: number 4 i + j and 16 + 4 i + j, of four i."""
    tiles, groups, _ = data.shape
    if chunk.form in ("Q4_0", "Q4_1"):
        blocks = chunk.data.reshape(chunk.shape[0], groups, -1)
        halves, bytes_ = blocks.view("<f2"), blocks[..., -16:]
        scales = halves[..., 0]
        minima = _scale(-8 * scales.astype(np.float32)) if chunk.form == "Q4_0" else halves[..., 1]
        _check_finite(scales)
        _check_finite(minima)
    else:
        values = _groups(chunk)
        minima = _scale(values.min(-1))
        scales = _scale((values.max(-1) - minima) / 15)
        bytes_ = _nibble_bytes(_levels(values - minima[..., None].astype(np.float32), scales, 0, 15))
    data[..., :64] = _scale_bytes(scales, tiles, groups)
    data[..., 64:128] = _scale_bytes(minima, tiles, groups)
    data[..., 128:] = _quads(bytes_, tiles, groups, 4)


def _wide_int4_tiles(chunk: StoredTensor, data: Bytes) -> None:
    """Q4_K: as INT4, with the products of its two scales in float32, which holds them exactly."""
    tiles, groups, _ = data.shape
    rows = chunk.shape[0]
    blocks = chunk.data.reshape(-1, 144)
    factors, shifts = six_bit_scales(blocks[:, 4:16])
    both = blocks[:, :4].copy().view("<f2").astype(np.float32)
    scales, minima = (both[:, :1] * factors).reshape(rows, groups), (-both[:, 1:] * shifts).reshape(rows, groups)
    _check_finite(scales)
    _check_finite(minima)
    runs = blocks[:, 16:].reshape(-1, 4, 1, 32)
    q = np.concatenate([runs & 15, runs >> 4], axis=2).reshape(rows, groups, GROUP)
    data[..., :128] = _scale_bytes(scales, tiles, groups)
    data[..., 128:256] = _scale_bytes(minima, tiles, groups)
    data[..., 256:] = _quads(_nibble_bytes(q), tiles, groups, 4)


def _scale(values: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        scales = values.astype(np.float16)
    if not np.isfinite(scales).all():
        raise _TooLarge
    return scales


def _levels(values: Floats, scales: npt.NDArray[np.float16], least: int, largest: int) -> npt.NDArray[np.float32]:
    """The whole numbers that times their scale are nearest to the values."""
    wide = scales.astype(np.float32)
    inverse = np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)
    return np.clip(np.rint(values * inverse[..., None]), least, largest)


def _nibble_bytes(q: npt.NDArray[Any]) -> Bytes:
    """Numbers 0 to 15, [..., 32], as bytes [..., 16]: number i low, number i + 16 high."""
    both: Bytes = q.astype(np.uint8)
    return both[..., :16] | (both[..., 16:] << np.uint8(4))


def _scale_bytes(scales: npt.NDArray[np.floating], tiles: int, groups: int) -> Bytes:
    """[rows, groups] as bytes [tiles, groups, those of 32 outputs]."""
    ordered = np.ascontiguousarray(_padded(scales, tiles, groups).transpose(0, 2, 1))
    return ordered.view(np.uint8).reshape(tiles, groups, -1)


def _quads(bytes_: Bytes, tiles: int, groups: int, quads: int) -> Bytes:
    """[rows, groups, 4 * quads] as [tiles, groups, quads * 32 outputs * 4]."""
    fours = np.ascontiguousarray(bytes_).view(np.uint32)  # single bytes would take three times as long
    ordered = np.ascontiguousarray(_padded(fours, tiles, groups).transpose(0, 2, 3, 1))
    return ordered.view(np.uint8).reshape(tiles, groups, quads * LANES * 4)


_TILES: dict[int, Callable[[StoredTensor, Bytes], None]] = {
    FP32: _float_tiles(np.float32, lambda values: values),
    BF16: _float_tiles(np.uint16, _nearest_bf16),
    FP16: _float_tiles(np.float16, _nearest_fp16),
    INT8: _int8_tiles,
    INT4: _int4_tiles,
    INT4_WIDE: _wide_int4_tiles,
}


def unpack(tensor: PackedTensor) -> Floats:
    """The weights that the kernels compute with: float32, of the tensor's shape."""
    if len(tensor.shape) < 2:
        return tensor.data.view(np.float32)[: int(np.prod(tensor.shape))].reshape(tensor.shape).copy()
    tiles, groups, _ = tensor.data.shape
    data = tensor.data
    if tensor.form == INT8:
        scales = data[..., :64].copy().view(np.float16).astype(np.float32)  # [tiles, groups, lanes]
        q = (
            data[..., 64:]
            .reshape(tiles, groups, 8, LANES, 4)
            .transpose(0, 3, 1, 2, 4)
            .reshape(tiles, LANES, groups, GROUP)
        )
        values = (q.astype(np.float32) - 128) * scales.transpose(0, 2, 1)[..., None]
    elif tensor.form in (INT4, INT4_WIDE):
        size = 64 if tensor.form == INT4 else 128
        kind = np.float16 if tensor.form == INT4 else np.float32
        scales, minima = (data[..., at : at + size].copy().view(kind).astype(np.float32) for at in (0, size))
        both = data[..., 2 * size :].reshape(tiles, groups, 4, LANES, 4).transpose(0, 3, 1, 2, 4)
        both = both.reshape(tiles, LANES, groups, 16)
        q = np.concatenate([both & 15, both >> 4], axis=-1).astype(np.float32)
        values = q * scales.transpose(0, 2, 1)[..., None] + minima.transpose(0, 2, 1)[..., None]
    else:
        if tensor.form == BF16:
            numbers = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = data.view(np.float16 if tensor.form == FP16 else np.float32).astype(np.float32)
        values = numbers.reshape(tiles, groups, GROUP, LANES).transpose(0, 3, 1, 2)
    rows, columns = tensor.shape
    return np.ascontiguousarray(values.reshape(tiles * LANES, groups * GROUP)[:rows, :columns])
