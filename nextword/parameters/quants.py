"""The formats in which a tensor's numbers are stored, and the dequantization of each to float32.

A format cuts the last axis of a tensor into blocks of a fixed number of weights and bytes. The arithmetic is
ggml's, rounded to float32 at the same places (structs `block_*` of ggml/src/ggml-common.h, functions
`dequantize_row_*` of ggml/src/ggml-quants.c); the tests compare the results with `gguf.quants`, bit for bit.

Each function takes `blocks`, uint8 [n, bytes of a block], and fills `out`, float32 [n, weights of a block]. A
nibble byte holds weight i in its low half and weight i + (half the block or group) in its high half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BlockFormat:
    """A format: the size of a block, and its dequantization.

    Args:
        block_bytes: Size of a block in bytes.
        block_weights: Size of a block in weights.
        dequantize: A function of `blocks`, uint8 [n, block_bytes], that fills `out`, float32 [n, block_weights]; None
            for integers, masks and 8-bit floats, which hold no weights that nextword reads.

    >>> block = np.concatenate([np.array([0.5], "<f2").view(np.uint8), np.arange(32, dtype=np.uint8)])  # d, qs
    >>> out = np.empty((1, 32), np.float32)
    >>> BLOCK_FORMATS["Q8_0"].dequantize(block[None], out)
    >>> out[0, :4].tolist()
    [0.0, 0.5, 1.0, 1.5]
    """

    block_bytes: int
    block_weights: int
    dequantize: Callable[[Bytes, Floats], None] | None


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, out: Floats) -> None:
    """Low halves of the bytes, then their high halves, along the last axis."""
    half = packed.shape[-1]
    out[..., :half] = packed & 15
    out[..., half:] = packed >> 4


def _f32(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f4")


def _f64(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f8")


def _f16(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f2")


def _bf16(blocks: Bytes, out: Floats) -> None:
    """The upper half of a float32."""
    np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    """block_q8_0 {half d; int8 qs[32]}: d * q."""
    out[:] = blocks[:, 2:].view(np.int8)
    out *= _half(blocks, 0)


def _q4_0(blocks: Bytes, out: Floats) -> None:
    """block_q4_0 {half d; uint8 qs[16]}: d * (q - 8)."""
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _half(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    """block_q4_1 {half d, m; uint8 qs[16]}: d * q + m."""
    _nibbles(blocks[:, 4:], out)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    """block_q5_0 {half d; uint8 qh[4], qs[16]}: d * (q - 16), the fifth bit of weight i in bit i of qh."""
    _nibbles(blocks[:, 6:], out)
    out += 16 * np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    out -= 16
    out *= _half(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    """block_q5_1 {half d, m; uint8 qh[4], qs[16]}: d * q + m, the fifth bit as in Q5_0."""
    _nibbles(blocks[:, 8:], out)
    out += 16 * np.unpackbits(blocks[:, 4:8], axis=1, bitorder="little")
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits each, from 12 bytes (`get_scale_min_k4`); uint8 [n, 8] twice.

    The first four of each fill the low 6 bits of bytes 0-3 and 4-7; the last four have their low 4 bits in
    bytes 8-11 and their upper 2 bits on top of bytes 0-3 and 4-7.
    """
    scale, minimum, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([scale & 63, (low & 15) | ((scale >> 6) << 4)], axis=1)
    minima = np.concatenate([minimum & 63, (low >> 4) | ((minimum >> 6) << 4)], axis=1)
    return scales, minima


def _scale_groups(blocks: Bytes, groups: Floats) -> None:
    """(d * scale) * q - (dmin * minimum) for eight groups of 32, float32 [n, 8, 32] in place."""
    scales, minima = six_bit_scales(blocks[:, 4:16])
    groups *= (_half(blocks, 0) * scales)[:, :, None]
    groups -= (_half(blocks, 2) * minima)[:, :, None]


def _q4_k(blocks: Bytes, out: Floats) -> None:
    """block_q4_K {half d, dmin; uint8 scales[12], qs[128]}: four runs of 32 nibble bytes."""
    _nibbles(blocks[:, 16:].reshape(-1, 4, 32), out.reshape(-1, 4, 64))
    _scale_groups(blocks, out.reshape(-1, 8, 32))


def _q5_k(blocks: Bytes, out: Floats) -> None:
    """block_q5_K {half d, dmin; uint8 scales[12], qh[32], qs[128]}: group g's fifth bits in bit g of qh."""
    _nibbles(blocks[:, 48:].reshape(-1, 4, 32), out.reshape(-1, 4, 64))
    groups = out.reshape(-1, 8, 32)
    for group in range(8):
        groups[:, group] += ((blocks[:, 16:48] >> group) & 1) << 4
    _scale_groups(blocks, groups)


def _q6_k(blocks: Bytes, out: Floats) -> None:
    """block_q6_K {uint8 ql[128], qh[64]; int8 scales[16]; half d}: d * scale * (q - 32), 16 weights a scale.

    Each half of the block has 64 nibble bytes, and 32 bytes whose four bit pairs top four runs of 32 weights.
    """
    _nibbles(blocks[:, :128].reshape(-1, 2, 64), out.reshape(-1, 2, 128))
    top = blocks[:, 128:192].reshape(-1, 2, 32)
    runs = out.reshape(-1, 2, 4, 32)
    for run in range(4):
        runs[:, :, run] += ((top >> (2 * run)) & 3) << 4
    out -= 32
    groups = out.reshape(-1, 16, 16)
    groups *= (_half(blocks, 208) * blocks[:, 192:208].view(np.int8))[:, :, None]


BLOCK_FORMATS: dict[str, BlockFormat] = {
    "F64": BlockFormat(8, 1, _f64),
    "F32": BlockFormat(4, 1, _f32),
    "F16": BlockFormat(2, 1, _f16),
    "BF16": BlockFormat(2, 1, _bf16),
    "Q8_0": BlockFormat(34, 32, _q8_0),
    "Q4_0": BlockFormat(18, 32, _q4_0),
    "Q4_1": BlockFormat(20, 32, _q4_1),
    "Q5_0": BlockFormat(22, 32, _q5_0),
    "Q5_1": BlockFormat(24, 32, _q5_1),
    "Q4_K": BlockFormat(144, 256, _q4_k),
    "Q5_K": BlockFormat(176, 256, _q5_k),
    "Q6_K": BlockFormat(210, 256, _q6_k),
    **{name: BlockFormat(1, 1, None) for name in ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2")},
    **{name: BlockFormat(2, 1, None) for name in ("U16", "I16")},
    **{name: BlockFormat(4, 1, None) for name in ("U32", "I32")},
    **{name: BlockFormat(8, 1, None) for name in ("U64", "I64")},
}
