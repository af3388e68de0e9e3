"""A matrix times vectors: the product that generation spends its time in.

A matrix lies in memory as tiles of 32 outputs by all inputs, so that one vector of 32 lanes holds one column of a tile,
a weight of each of 32 outputs, and no sum runs across lanes. Every kernel here is the same three lines,

    for every vector x:
        for every column of a tile:
            out += column * x[column]

for floating-point weights with up to three vectors at once, whose sums stay in registers; for integers with the loops
exchanged, so that weights that are read and widened once serve all vectors: a prompt, or the next token of many texts.
Each output is summed in the order of its columns, whatever the number of vectors, so that a text gives the same bits
alone and in a batch.

Integer weights come in groups of 32 columns that share a scale (and, with 4 bits, a minimum): w = scale * q (+
minimum). Matrices are padded with zeros to whole groups and whole tiles. A vector is quantized to integers of 16 bits,
with a scale per group of 32, x = x_scale * n, so that the integer dot product of a group is exact (`int_dot`):

    sum w x = scale * x_scale * sum q n  (+ minimum * sum x)

Layouts of a tile, columns in order, 32 = the lanes:

    floats     per column:    32 numbers                                          (float32, bfloat16, float16)
    INT8       per group:     32 scales (float16), 8 x 32 x 4 bytes q + 128       column 4 i + j: byte j of quad i
    INT4       per group:     32 scales, 32 minima (float16), 4 x 32 x 4 bytes    quads 0-3 low nibbles, 4-7 high
    INT4_WIDE  the same with scales and minima in float32
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from nextword.predict.cpu.kernels.int_dot import (
    MANY_ROWS,
    WIDENS_GROUPS,
    dot_int4,
    dot_int8,
    dot_widened,
    int4_group_at,
    int8_group_at,
    put_integers,
    widened_int4_at,
    widened_int8_at,
)
from nextword.predict.cpu.kernels.llvm import LONG, call, cut, in_registers, joined, splat
from nextword.predict.cpu.kernels.simd import (
    ADDRESS,
    COUNT,
    FLOATS,
    NOTHING,
    Floats,
    absolute,
    as_floats,
    as_ints,
    bf16_at,
    broadcast,
    broadcast_int,
    byte_at,
    extract_lane,
    float_at,
    floats_at,
    fma,
    fp16_at,
    int8_at,
    int_at,
    kernel,
    lane_max,
    lane_sum_int,
    operation,
    prefetcher,
    put_float,
    put_floats,
    put_int,
)
from nextword.predict.cpu.layout import (
    BF16,
    FP16,
    FP32,
    FP32_BYTES,
    GROUP,
    HALF_BYTES,
    INT4,
    INT4_BYTES,
    INT4_WIDE,
    INT4_WIDE_BYTES,
    INT8,
    INT8_BYTES,
    LANES,
    X_BYTES,
    Vectors,
)
from nextword.predict.cpu.memory import LINE
from nextword.predict.cpu.processor import features

_REGISTER = 16 if "avx512f" in features() else 8  # float32: in a vector register
BLOCK_COLUMNS = 8  # columns: of floating-point weights that one prefetch covers
PREFETCH_GROUPS = 2  # groups: of columns prefetched ahead for MANY_ROWS rows, which outrun the hardware's prefetcher
X_LARGEST = 127 * 256  # the largest quantized activation: its high byte is a signed byte


@kernel
def put_group(vectors: Vectors, row: int, group: int, x: Floats) -> None:
    """Write 32 numbers of a row of `Vectors`, as float32 and quantized.

    Args:
        vectors: Where they go.
        row: The row.
        group: The group of 32 columns.
        x: The numbers.
    """
    index = row * vectors.groups + group
    put_floats(vectors.floats + 4 * GROUP * index, x)
    largest = lane_max(absolute(x))
    scale = largest / np.float32(X_LARGEST)
    n = as_ints(x * broadcast(np.float32(X_LARGEST) / largest)) if largest > np.float32(1e-30) else broadcast_int(0)
    put_integers(vectors.integers + X_BYTES * index, n)
    count = lane_sum_int(n)
    put_float(vectors.scales + 4 * index, scale)
    put_int(vectors.counts + 4 * index, count)
    put_float(vectors.sums + 4 * index, scale * np.float32(count))


def _float_tile(column_at: Any, size: int) -> Any:
    """The kernel `add_product` for floating-point weights.

    Args:
        column_at: The operation that loads one column of a tile as float32.
        size: Bytes of a weight.
    """
    of_one, of_two, of_three = (_float_sums(column_at, size, n_rows) for n_rows in (1, 2, 3))

    @kernel
    def add_product(
        tile: int, n_columns: int, x: int, x_stride: int, n_rows: int, out: int, out_stride: int, ahead: int
    ) -> None:
        """out[row] += tile @ x[row], for 32 outputs.

        Args:
            tile: Address of the tile, [n_columns, 32] weights.
            n_columns: Columns; a multiple of BLOCK_COLUMNS.
            x: Address of float32 [n_rows, n_columns].
            x_stride: Bytes from one row of x to the next.
            n_rows: The number of rows of x and out.
            out: Address of float32 [n_rows, 32].
            out_stride: Bytes from one row of out to the next.
            ahead: Bytes from the tile to what is prefetched meanwhile; 0: nothing is.
        """
        for row in range(0, n_rows, 3):
            numbers, to, wanted = x + row * x_stride, out + row * out_stride, ahead if row == 0 else 0
            if n_rows - row >= 3:
                of_three(tile, n_columns, numbers, x_stride, to, out_stride, wanted)
            elif n_rows - row == 2:
                of_two(tile, n_columns, numbers, x_stride, to, out_stride, wanted)
            else:
                of_one(tile, n_columns, numbers, x_stride, to, out_stride, wanted)

    return add_product


def _float_sums(column_at: Any, size: int, n_rows: int) -> Any:
    """The same kernel for exactly `n_rows` vectors, whose sums stay in registers.

    Those of three vectors fill twelve of AVX2's sixteen registers.
    """
    rows, column_bytes = range(n_rows), size * LANES
    sums_type = types.UniTuple(FLOATS, n_rows)
    prefetch = prefetcher(BLOCK_COLUMNS * column_bytes // LINE)

    def row_address(builder: Any, at: Any, row: int, row_bytes: Any) -> Any:
        return builder.add(at, builder.mul(row_bytes, LONG(row)))

    @operation(sums_type, ADDRESS, COUNT)
    def sums_at(builder: Any, out: Any, out_stride: Any) -> Any:
        places = [row_address(builder, out, row, out_stride) for row in rows]
        return cgutils.pack_array(builder, [floats_at.write(builder, each) for each in places])

    @operation(NOTHING, ADDRESS, COUNT, sums_type)
    def put_sums(builder: Any, out: Any, out_stride: Any, sums: Any) -> None:
        for row in rows:
            put_floats.write(builder, row_address(builder, out, row, out_stride), builder.extract_value(sums, row))

    @operation(sums_type, sums_type, ADDRESS, ADDRESS, COUNT)
    def add_block(builder: Any, sums: Any, columns: Any, x: Any, x_stride: Any) -> Any:
        """sums + BLOCK_COLUMNS columns, each times the number of each row for this column."""
        for column in range(BLOCK_COLUMNS):
            weights = column_at.write(builder, builder.add(columns, LONG(column_bytes * column)))
            at = builder.add(x, LONG(4 * column))
            numbers = [float_at.write(builder, row_address(builder, at, row, x_stride)) for row in rows]
            sums = add_column(builder, sums, weights, numbers)
        return sums

    def add_column(builder: Any, sums: Any, weights: Any, numbers: list[Any]) -> Any:
        """sums + a column times the number of each row, one register of outputs after the other."""
        parts = []
        for first in range(0, LANES, _REGISTER):
            some = cut(builder, weights, first, _REGISTER)
            added = []
            for row, number in enumerate(numbers):
                before = cut(builder, builder.extract_value(sums, row), first, _REGISTER)
                same = splat(builder, number, _REGISTER)
                added.append(call(builder, f"llvm.fma.v{_REGISTER}f32", some.type, some, same, before))
            parts.append(in_registers(builder, added) if WIDENS_GROUPS and n_rows == 3 else added)
        return cgutils.pack_array(builder, [joined(builder, of_row) for of_row in zip(*parts, strict=True)])

    @kernel
    def add_product(tile: int, n_columns: int, x: int, x_stride: int, out: int, out_stride: int, ahead: int) -> None:
        sums = sums_at(out, out_stride)
        for block in range(0, n_columns, BLOCK_COLUMNS):
            if ahead != 0:
                prefetch(tile + block * column_bytes + ahead)
            sums = add_block(sums, tile + block * column_bytes, x + 4 * block, x_stride)
        put_sums(out, out_stride, sums)

    return add_product


add_product_fp32 = _float_tile(floats_at, 4)
add_product_bf16 = _float_tile(bf16_at, 2)
add_product_fp16 = _float_tile(fp16_at, 2)
add_product_unscaled_int8 = _float_tile(int8_at, 1)


def _int8_tile(group_at: Any, dot: Any, late: bool) -> Any:
    """The kernel `add_product` for 8-bit weights.

    Args:
        group_at: The operation of `int_dot` that reads a group of weights.
        dot: The operation of `int_dot` that multiplies it by a vector's group.
        late: Whether scales are read after the dot product, which leaves no registers to keep them in.
    """
    prefetch = prefetcher(INT8_BYTES // LINE)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_stride: int) -> None:
        """out[row] += tile @ x[row], for 32 outputs.

        Args:
            tile: Address of the tile, in the layout of the module's docstring.
            x: The vectors.
            n_rows: The number of rows of x and out.
            out: Address of float32 [n_rows, 32].
            out_stride: Bytes from one row of out to the next.
        """
        for group in range(x.groups):
            at = tile + group * INT8_BYTES
            if n_rows >= MANY_ROWS:
                prefetch(at + PREFETCH_GROUPS * INT8_BYTES)
            scale = fp16_at(at)
            q = group_at(at + 2 * LANES)
            for row in range(n_rows):
                to = out + row * out_stride
                index = row * x.groups + group
                sum = as_floats(dot(q, x.integers + X_BYTES * index, int_at(x.counts + 4 * index)))
                if late:
                    scale = fp16_at(at)
                put_floats(to, fma(sum, scale * broadcast(float_at(x.scales + 4 * index)), floats_at(to)))

    return add_product


def _int4_tile(scales_at: Any, size: int, group_at: Any, dot: Any, late: bool) -> Any:
    """The kernel `add_product` for 4-bit weights.

    Args:
        scales_at: The operation that loads 32 scales, or minima, as float32.
        size: Bytes of a scale.
        group_at: As in `_int8_tile`.
        dot: As in `_int8_tile`.
        late: As in `_int8_tile`.
    """
    scales = size * LANES
    group_bytes = 2 * scales + GROUP // 2 * LANES
    prefetch = prefetcher(group_bytes // LINE)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_stride: int) -> None:
        """out[row] += tile @ x[row], for 32 outputs.

        Args:
            tile: Address of the tile, in the layout of the module's docstring.
            x: The vectors.
            n_rows: The number of rows of x and out.
            out: Address of float32 [n_rows, 32].
            out_stride: Bytes from one row of out to the next.
        """
        for group in range(x.groups):
            at = tile + group * group_bytes
            if n_rows >= MANY_ROWS:
                prefetch(at + PREFETCH_GROUPS * group_bytes)
            scale, minimum = scales_at(at), scales_at(at + scales)
            q = group_at(at + 2 * scales)
            for row in range(n_rows):
                to = out + row * out_stride
                index = row * x.groups + group
                sum = as_floats(dot(q, x.integers + X_BYTES * index, int_at(x.counts + 4 * index)))
                if late:
                    scale, minimum = scales_at(at), scales_at(at + scales)
                so_far = fma(minimum, broadcast(float_at(x.sums + 4 * index)), floats_at(to))
                put_floats(to, fma(sum, scale * broadcast(float_at(x.scales + 4 * index)), so_far))

    return add_product


Method = tuple[Any, Any, bool]  # group_at, dot, late, as in `_int8_tile`


def _for_few_and_many(make: Callable[[Any, Any, bool], Any], few: Method, many: Method) -> Any:
    """A kernel that uses one method for fewer than MANY_ROWS vectors and, where it pays, another from there on.

    Args:
        make: Makes a kernel of a method.
        few: The method for few vectors.
        many: The method for many.
    """
    of_few = make(*few)
    if not WIDENS_GROUPS:
        return of_few
    of_many = make(*many)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_stride: int) -> None:
        if n_rows < MANY_ROWS:
            of_few(tile, x, n_rows, out, out_stride)
        else:
            of_many(tile, x, n_rows, out, out_stride)

    return add_product


_INT8_METHODS = (int8_group_at, dot_int8, WIDENS_GROUPS), (widened_int8_at, dot_widened, False)
_INT4_METHODS = (int4_group_at, dot_int4, WIDENS_GROUPS), (widened_int4_at, dot_widened, False)
add_product_int8 = _for_few_and_many(_int8_tile, *_INT8_METHODS)
add_product_int4 = _for_few_and_many(partial(_int4_tile, fp16_at, 2), *_INT4_METHODS)
add_product_int4_wide = _for_few_and_many(partial(_int4_tile, floats_at, 4), *_INT4_METHODS)


@kernel
def add_product(weights: int, form: int, tile: int, x: Vectors, n_rows: int, out: int, out_stride: int) -> None:
    """out[row] += (one tile of a matrix) @ x[row].

    Args:
        weights: Address of the matrix, its first tile.
        form: FP32 to INT4_WIDE.
        tile: The outputs from 32 * tile on.
        x: The vectors.
        n_rows: The number of rows of x and out.
        out: Address of float32 [n_rows, 32].
        out_stride: Bytes from one row of out to the next.
    """
    skipped, columns = tile * x.groups, GROUP * x.groups
    floats, x_stride = x.floats, 4 * columns
    halves, ahead = weights + skipped * HALF_BYTES, PREFETCH_GROUPS * HALF_BYTES if n_rows >= MANY_ROWS else 0
    if form == INT8:
        add_product_int8(weights + skipped * INT8_BYTES, x, n_rows, out, out_stride)
    elif form == INT4:
        add_product_int4(weights + skipped * INT4_BYTES, x, n_rows, out, out_stride)
    elif form == INT4_WIDE:
        add_product_int4_wide(weights + skipped * INT4_WIDE_BYTES, x, n_rows, out, out_stride)
    elif form == BF16:
        add_product_bf16(halves, columns, floats, x_stride, n_rows, out, out_stride, ahead)
    elif form == FP16:
        add_product_fp16(halves, columns, floats, x_stride, n_rows, out, out_stride, ahead)
    else:
        add_product_fp32(weights + skipped * FP32_BYTES, columns, floats, x_stride, n_rows, out, out_stride, 2 * ahead)


@kernel
def weight_at(group: int, form: int, row: int, column: int) -> float:
    """One weight, dequantized to float32.

    Args:
        group: Address of a group of columns of a tile.
        form: FP32 to INT4_WIDE.
        row: The output within the tile, 0 to 31.
        column: The column within the group, 0 to 31.
    """
    if form == FP32:
        return float_at(group + 4 * (LANES * column + row))
    if form == BF16:
        return extract_lane(bf16_at(group + 2 * LANES * column), row)
    if form == FP16:
        return extract_lane(fp16_at(group + 2 * LANES * column), row)
    if form == INT8:
        q = byte_at(group + 2 * LANES + 4 * LANES * (column // 4) + 4 * row + column % 4) - 128
        return extract_lane(fp16_at(group), row) * np.float32(q)
    wide = form == INT4_WIDE
    half = column % (GROUP // 2)
    scales = 8 * LANES if wide else 4 * LANES
    both = byte_at(group + scales + 4 * LANES * (half // 4) + 4 * row + half % 4)
    q = both >> 4 if column >= GROUP // 2 else both & 15
    scale = floats_at(group) if wide else fp16_at(group)
    minimum = floats_at(group + 4 * LANES) if wide else fp16_at(group + 2 * LANES)
    return extract_lane(scale, row) * np.float32(q) + extract_lane(minimum, row)


@kernel
def add_row(weights: int, form: int, group_bytes: int, n_columns: int, row: int, out: int) -> None:
    """out += one row of a matrix, dequantized: an embedding.

    Args:
        weights: Address of the matrix, its first tile.
        form: FP32 to INT4_WIDE.
        group_bytes: GROUP_BYTES[form].
        n_columns: Columns of the matrix.
        row: The row.
        out: Address of float32 [n_columns].
    """
    groups = -(-n_columns // GROUP)
    tile = weights + row // LANES * groups * group_bytes
    for column in range(n_columns):
        at = tile + column // GROUP * group_bytes
        to = out + 4 * column
        put_float(to, float_at(to) + weight_at(at, form, row % LANES, column % GROUP))
