"""Packed weights, the form that the CPU kernels read: matrices as tiles (kernels/matmul.py), vectors as float32.

`pack` turns stored tensors into packed ones. "auto" keeps the values of what is stored as Q8_0, Q4_0, Q4_1, Q4_K,
bfloat16, float16 or float32, and rounds Q5 and Q6 to INT8. The other choices put every matrix into one form, and round
where they must:

    fp32, bf16    each weight to the nearest
    int8          groups of 32 along a row: scale = largest magnitude / 127 (float16), q to the nearest
    int4          the same, from the least weight (minimum) to the largest: 16 levels; Q4 stays as it is

Vectors and the table of positions, of which a token reads one row, keep their precision whatever the choice.
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
_CHUNK_WEIGHTS = 1 << 20  # weights: packed at a time; bounds the memory that packing needs beside its result


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A packed matrix or vector.

    Args:
        form: FP32 to INT4_WIDE; a vector's is FP32.
        shape: The tensor's own shape.
        data: A matrix's tiles, uint8 [tiles, groups, GROUP_BYTES[form]], or a vector's bytes, padded to whole LANES.
    """

    form: int
    shape: tuple[int, ...]
    data: Bytes

    @property
    def address(self) -> int:
        """The address of its bytes, which lives only as long as `data`."""
        return self.data.ctypes.data


Packed = Mapping[str, PackedTensor]


def pack(tensors: Mapping[str, StoredTensor], weights: Weights = "auto") -> dict[str, PackedTensor]:
    """Pack all tensors of a model.

    Args:
        tensors: As they are stored.
        weights: The form of matrices.

    Raises:
        CorruptFile: A weight is infinite or NaN; with the tensor's name.
        UnsupportedModel: A weight is too large for the form; with the tensor's name.
    """
    forms = {name: form_of(name, tensor, weights) for name, tensor in tensors.items()}
    shapes = {name: packed_shape(forms[name], tensor.shape) for name, tensor in tensors.items()}
    buffer, packed, begin = reserve_large(sum(map(math.prod, shapes.values()))), {}, 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape)  # a multiple of a cache line, whatever the form
        packed[name] = pack_tensor(name, tensors[name], forms[name], buffer[begin:end].reshape(shape))
        begin = end
    return packed


def form_of(name: str, tensor: StoredTensor, weights: Weights) -> int:
    """The form that a tensor is packed in, FP32 to INT4_WIDE.

    Args:
        name: The tensor's name.
        tensor: The tensor as it is stored.
        weights: The form of matrices that was asked for.
    """
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
    """Whether packing `tensor` in this form keeps the value of every weight."""
    return form == FP32 or _LOSSLESS.get(tensor.form) == form


def packed_shape(form: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `PackedTensor.data`, for a tensor of this shape."""
    if len(shape) < 2:
        return (-(-math.prod(shape) // LANES) * LANES * 4,)
    return -(-shape[0] // LANES), -(-shape[1] // GROUP), GROUP_BYTES[form]


def pack_tensor(name: str, tensor: StoredTensor, form: int, data: Bytes | None = None) -> PackedTensor:
    """Pack one tensor.

    Args:
        name: Its name, for errors.
        tensor: The tensor as it is stored.
        form: FP32 to INT4_WIDE.
        data: Zeros, uint8 of its packed shape, to be written to; None: an array of its own.

    Raises:
        CorruptFile: As `pack`.
        UnsupportedModel: As `pack`.
    """
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
    """A weight is infinite or NaN."""


class _TooLarge(Exception):
    """A scale is too large for float16."""


def _check_finite(values: npt.NDArray[np.floating]) -> None:
    """Raise _NotFinite unless all values are finite."""
    if not np.isfinite(values).all():
        raise _NotFinite


def _chunks(tensor: StoredTensor) -> Iterator[tuple[int, StoredTensor]]:
    """The matrix in chunks of whole tiles, each with the index of its first row."""
    rows = max(1, _CHUNK_WEIGHTS // (tensor.shape[1] * LANES)) * LANES
    for first in range(0, tensor.shape[0], rows):
        yield first, tensor.rows(slice(first, first + rows))


def _padded(rows: npt.NDArray[Any], tiles: int, groups: int) -> npt.NDArray[Any]:
    """[rows, groups, ...] padded with rows of zeros: [tiles, LANES, groups, ...]."""
    whole = np.zeros((tiles * LANES, groups, *rows.shape[2:]), rows.dtype)
    whole[: rows.shape[0]] = rows
    return whole.reshape(tiles, LANES, groups, *rows.shape[2:])


def _groups(chunk: StoredTensor) -> Floats:
    """The weights, float32 [rows, groups, GROUP], each row padded with zeros. Raises _NotFinite."""
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
    dtype: npt.DTypeLike, convert: Callable[[Floats], npt.NDArray[Any]]
) -> Callable[[StoredTensor, Bytes], None]:
    """A function that packs a chunk into tiles of the dtype, to which `convert` rounds float32."""

    def fill(chunk: StoredTensor, data: Bytes) -> None:
        tiles, groups, _ = data.shape
        values = _padded(convert(_groups(chunk)), tiles, groups)  # [tiles, lanes, groups, columns]
        data.view(dtype).reshape(tiles, groups, GROUP, LANES)[:] = values.transpose(0, 2, 3, 1)

    return fill


def _nearest_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, halves to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _nearest_fp16(values: Floats) -> npt.NDArray[np.float16]:
    """Rounded to nearest, halves to even."""
    return values.astype(np.float16)


def _int8_tiles(chunk: StoredTensor, data: Bytes) -> None:
    """Pack a chunk as INT8: per group 32 scales, then 8 quads, the bytes q + 128 of four columns of 32 outputs."""
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
    """Pack a chunk as INT4: per group 32 scales, 32 minima, 4 quads of columns 4 i + j and 16 + 4 i + j."""
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
    """Pack a chunk of Q4_K as INT4_WIDE: the products of its two levels of scales are exact in float32."""
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
    """Scales or minima rounded to float16. Raises _TooLarge."""
    with np.errstate(over="ignore"):
        scales = values.astype(np.float16)
    if not np.isfinite(scales).all():
        raise _TooLarge
    return scales


def _levels(values: Floats, scales: npt.NDArray[np.float16], least: int, largest: int) -> npt.NDArray[np.float32]:
    """The integers q, clipped to [least, largest], whose products with their scale are nearest to the values."""
    wide = scales.astype(np.float32)
    inverse = np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)
    return np.clip(np.rint(values * inverse[..., None]), least, largest)


def _nibble_bytes(q: npt.NDArray[Any]) -> Bytes:
    """Numbers 0 to 15, [..., 32], as bytes [..., 16]: number i in the low nibble, number i + 16 in the high one."""
    both: Bytes = q.astype(np.uint8)
    return both[..., :16] | (both[..., 16:] << np.uint8(4))


def _scale_bytes(scales: npt.NDArray[np.floating], tiles: int, groups: int) -> Bytes:
    """Scales [rows, groups] as bytes [tiles, groups, 32 outputs * bytes of a scale]."""
    ordered = np.ascontiguousarray(_padded(scales, tiles, groups).transpose(0, 2, 1))
    return ordered.view(np.uint8).reshape(tiles, groups, -1)


def _quads(bytes_: Bytes, tiles: int, groups: int, quads: int) -> Bytes:
    """Bytes of weights [rows, groups, 4 * quads] as quads, [tiles, groups, quads * 32 outputs * 4]."""
    fours = np.ascontiguousarray(bytes_).view(np.uint32)  # moving single bytes takes three times as long
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
    """The weights that the kernels compute with, dequantized: float32, of the tensor's shape."""
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
