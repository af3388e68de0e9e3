"""A matrix times vectors, the kernel that generation spends its time in.

A matrix lies in memory as tiles: 32 outputs by all inputs, so that one vector of 32 lanes holds a weight of 32
outputs and no sum runs across lanes. Every kernel here is the same three lines,

    for every vector x:
        for every column of a tile:
            out += column * x[column]

for floating-point weights with up to three vectors at once, whose sums stay in registers; for integers the other way
round, so that what is read and widened once serves all vectors: a prompt, or the next token of many texts. Each output
is summed in the order of its columns, whatever the number of vectors, so that a text gives the same bits alone and in
company.

Integers come in groups of 32 columns that share a scale (and, with 4 bits, a minimum): w = scale * q (+ minimum).
Matrices are padded with zeros to whole groups and whole tiles. A vector meets them as integers of 16 bits, each group
of 32 with its own step, x = step * n, so that the group's sum of products of integers is exact (`groups`):

    sum w x = scale * step * sum q n  (+ minimum * sum x)

Layouts of a tile, columns in order, 32 = the lanes:

    floats     per column:    32 numbers                                          (float32, bfloat16, float16)
    INT8       per group:     32 scales (float16), 8 x 32 x 4 bytes q + 128       column 4 i + j: byte j of quad i
    INT4       per group:     32 scales, 32 minima (float16), 4 x 32 x 4 bytes    quads 0-3 low halves, 4-7 high
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
    MANY,
    WIDENS,
    bytes_at,
    nibbles_at,
    put_x,
    times_bytes,
    times_nibbles,
    times_pairs,
    wide_bytes_at,
    wide_nibbles_at,
)
from nextword.predict.cpu.kernels.llvm import LONG, call, cut, held, joined, splat
from nextword.predict.cpu.kernels.simd import (
    ADDRESS,
    COUNT,
    FLOATS,
    NOTHING,
    Floats,
    as_floats,
    as_ints,
    brains_at,
    byte_at,
    every,
    every_int,
    fetcher,
    float_at,
    floats_at,
    fma,
    halves_at,
    int_at,
    kernel,
    lane,
    magnitude,
    operation,
    peak,
    put_float,
    put_floats,
    put_int,
    signed_bytes_at,
    total_int,
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
    INT8,
    INT8_BYTES,
    LANES,
    WIDE_BYTES,
    X_BYTES,
    Vectors,
)
from nextword.predict.cpu.memory import LINE
from nextword.predict.cpu.processor import features

_REGISTER = 16 if "avx512f" in features() else 8  # float32 in a register
BLOCK = 8  # columns of floating-point weights that are fetched at once
AHEAD = 2  # groups of columns that are fetched ahead for MANY rows: a processor foresees less than it multiplies then
LARGEST = 127 * 256  # the largest integer that a vector's number becomes: its high byte is signed


@kernel
def put_group(vectors: Vectors, row: int, group: int, x: Floats) -> None:
    """Set 32 numbers of a row: as they are, and as integers."""
    index = row * vectors.groups + group
    put_floats(vectors.floats + 4 * GROUP * index, x)
    largest = peak(magnitude(x))
    step = largest / np.float32(LARGEST)
    n = as_ints(x * every(np.float32(LARGEST) / largest)) if largest > np.float32(1e-30) else every_int(0)
    put_x(vectors.integers + X_BYTES * index, n)
    count = total_int(n)
    put_float(vectors.steps + 4 * index, step)
    put_int(vectors.counts + 4 * index, count)
    put_float(vectors.sums + 4 * index, step * np.float32(count))


def _float_tile(column_at: Any, size: int) -> Any:
    """A kernel for weights that `column_at` reads as float32, of `size` bytes each."""
    of_one, of_two, of_three = (_float_sums(column_at, size, n_rows) for n_rows in (1, 2, 3))

    @kernel
    def add_product(
        tile: int, n_columns: int, x: int, x_step: int, n_rows: int, out: int, out_step: int, ahead: int
    ) -> None:
        """out[row] += tile @ x[row], for 32 outputs and so many columns, a multiple of BLOCK.

        What lies `ahead` bytes ahead is fetched meanwhile, unless that is 0.
        """
        for row in range(0, n_rows, 3):
            numbers, to, wanted = x + row * x_step, out + row * out_step, ahead if row == 0 else 0
            if n_rows - row >= 3:
                of_three(tile, n_columns, numbers, x_step, to, out_step, wanted)
            elif n_rows - row == 2:
                of_two(tile, n_columns, numbers, x_step, to, out_step, wanted)
            else:
                of_one(tile, n_columns, numbers, x_step, to, out_step, wanted)

    return add_product


def _float_sums(column_at: Any, size: int, n_rows: int) -> Any:
    """The same for so many rows, whose sums stay in registers: those of three rows fill twelve of AVX2's sixteen."""
    rows, step = range(n_rows), size * LANES
    sums_type = types.UniTuple(FLOATS, n_rows)
    fetch = fetcher(BLOCK * step // LINE)

    def place(builder: Any, at: Any, row: int, row_bytes: Any) -> Any:
        return builder.add(at, builder.mul(row_bytes, LONG(row)))

    @operation(sums_type, ADDRESS, COUNT)
    def sums_at(builder: Any, out: Any, out_step: Any) -> Any:
        places = [place(builder, out, row, out_step) for row in rows]
        return cgutils.pack_array(builder, [floats_at.write(builder, each) for each in places])

    @operation(NOTHING, ADDRESS, COUNT, sums_type)
    def put_sums(builder: Any, out: Any, out_step: Any, sums: Any) -> None:
        for row in rows:
            put_floats.write(builder, place(builder, out, row, out_step), builder.extract_value(sums, row))

    @operation(sums_type, sums_type, ADDRESS, ADDRESS, COUNT)
    def add_block(builder: Any, sums: Any, columns: Any, x: Any, x_step: Any) -> Any:
        """sums + BLOCK columns, each times its number of each row at x."""
        for column in range(BLOCK):
            weights = column_at.write(builder, builder.add(columns, LONG(step * column)))
            at = builder.add(x, LONG(4 * column))
            sums = add_column(
                builder, sums, weights, [float_at.write(builder, place(builder, at, row, x_step)) for row in rows]
            )
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
            parts.append(held(builder, added) if WIDENS and n_rows == 3 else added)
        return cgutils.pack_array(builder, [joined(builder, of_row) for of_row in zip(*parts, strict=True)])

    @kernel
    def add_product(tile: int, n_columns: int, x: int, x_step: int, out: int, out_step: int, ahead: int) -> None:
        sums = sums_at(out, out_step)
        for block in range(0, n_columns, BLOCK):
            if ahead != 0:
                fetch(tile + block * step + ahead)
            sums = add_block(sums, tile + block * step, x + 4 * block, x_step)
        put_sums(out, out_step, sums)

    return add_product


add_product_fp32 = _float_tile(floats_at, 4)
add_product_bf16 = _float_tile(brains_at, 2)
add_product_fp16 = _float_tile(halves_at, 2)
add_product_bytes = _float_tile(signed_bytes_at, 1)


def _int8_tile(quads_at: Any, times: Any, late: bool) -> Any:
    """A kernel for 8-bit weights; `quads_at` reads a group, and `times` multiplies what it gives.

    late: whether scales are read after a product, because it leaves no registers to keep them in.
    """
    fetch = fetcher(INT8_BYTES // LINE)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_step: int) -> None:
        """out[row] += tile @ x[row], for 32 outputs."""
        for group in range(x.groups):
            at = tile + group * INT8_BYTES
            if n_rows >= MANY:
                fetch(at + AHEAD * INT8_BYTES)
            scale = halves_at(at)
            q = quads_at(at + 2 * LANES)
            for row in range(n_rows):
                to = out + row * out_step
                index = row * x.groups + group
                sum = as_floats(times(q, x.integers + X_BYTES * index, int_at(x.counts + 4 * index)))
                if late:
                    scale = halves_at(at)
                put_floats(to, fma(sum, scale * every(float_at(x.steps + 4 * index)), floats_at(to)))

    return add_product


def _int4_tile(scales_at: Any, size: int, quads_at: Any, times: Any, late: bool) -> Any:
    """The same for 4-bit weights, whose scales and minima `scales_at` reads as float32, of `size` bytes each."""
    scales = size * LANES
    group_bytes = 2 * scales + GROUP // 2 * LANES
    fetch = fetcher(group_bytes // LINE)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_step: int) -> None:
        """out[row] += tile @ x[row], for 32 outputs."""
        for group in range(x.groups):
            at = tile + group * group_bytes
            if n_rows >= MANY:
                fetch(at + AHEAD * group_bytes)
            scale, minimum = scales_at(at), scales_at(at + scales)
            q = quads_at(at + 2 * scales)
            for row in range(n_rows):
                to = out + row * out_step
                index = row * x.groups + group
                sum = as_floats(times(q, x.integers + X_BYTES * index, int_at(x.counts + 4 * index)))
                if late:
                    scale, minimum = scales_at(at), scales_at(at + scales)
                so_far = fma(minimum, every(float_at(x.sums + 4 * index)), floats_at(to))
                put_floats(to, fma(sum, scale * every(float_at(x.steps + 4 * index)), so_far))

    return add_product


Way = tuple[Any, Any, bool]  # how a group of integers is read and multiplied, and when its scales are read


def _for_few_and_many(make: Callable[[Any, Any, bool], Any], few: Way, many: Way) -> Any:
    """The kernel that `make` makes of one way for few rows, and of another for many."""
    of_few = make(*few)
    if not WIDENS:
        return of_few
    of_many = make(*many)

    @kernel
    def add_product(tile: int, x: Vectors, n_rows: int, out: int, out_step: int) -> None:
        if n_rows < MANY:
            of_few(tile, x, n_rows, out, out_step)
        else:
            of_many(tile, x, n_rows, out, out_step)

    return add_product


_BYTES = (bytes_at, times_bytes, WIDENS), (wide_bytes_at, times_pairs, False)
_NIBBLES = (nibbles_at, times_nibbles, WIDENS), (wide_nibbles_at, times_pairs, False)
add_product_int8 = _for_few_and_many(_int8_tile, *_BYTES)
add_product_int4 = _for_few_and_many(partial(_int4_tile, halves_at, 2), *_NIBBLES)
add_product_int4_wide = _for_few_and_many(partial(_int4_tile, floats_at, 4), *_NIBBLES)


@kernel
def add_product(weights: int, form: int, tile: int, x: Vectors, n_rows: int, out: int, out_step: int) -> None:
    """out[row] += (tile number `tile` of the matrix) @ x[row]: 32 outputs of every row, `out_step` bytes apart."""
    skipped, columns = tile * x.groups, GROUP * x.groups
    floats, step = x.floats, 4 * columns
    halves, ahead = weights + skipped * HALF_BYTES, AHEAD * HALF_BYTES if n_rows >= MANY else 0
    if form == INT8:
        add_product_int8(weights + skipped * INT8_BYTES, x, n_rows, out, out_step)
    elif form == INT4:
        add_product_int4(weights + skipped * INT4_BYTES, x, n_rows, out, out_step)
    elif form == INT4_WIDE:
        add_product_int4_wide(weights + skipped * WIDE_BYTES, x, n_rows, out, out_step)
    elif form == BF16:
        add_product_bf16(halves, columns, floats, step, n_rows, out, out_step, ahead)
    elif form == FP16:
        add_product_fp16(halves, columns, floats, step, n_rows, out, out_step, ahead)
    else:
        add_product_fp32(weights + skipped * FP32_BYTES, columns, floats, step, n_rows, out, out_step, 2 * ahead)


@kernel
def weight_at(group: int, form: int, row: int, column: int) -> float:
    """One weight of a tile's group of columns: what its scale and its integer stand for."""
    if form == FP32:
        return float_at(group + 4 * (LANES * column + row))
    if form == BF16:
        return lane(brains_at(group + 2 * LANES * column), row)
    if form == FP16:
        return lane(halves_at(group + 2 * LANES * column), row)
    if form == INT8:
        q = byte_at(group + 2 * LANES + 4 * LANES * (column // 4) + 4 * row + column % 4) - 128
        return lane(halves_at(group), row) * np.float32(q)
    wide = form == INT4_WIDE
    half = column % (GROUP // 2)
    scales = 8 * LANES if wide else 4 * LANES
    both = byte_at(group + scales + 4 * LANES * (half // 4) + 4 * row + half % 4)
    q = both >> 4 if column >= GROUP // 2 else both & 15
    scale = floats_at(group) if wide else halves_at(group)
    minimum = floats_at(group + 4 * LANES) if wide else halves_at(group + 2 * LANES)
    return lane(scale, row) * np.float32(q) + lane(minimum, row)


@kernel
def add_row(weights: int, form: int, group_bytes: int, n_columns: int, row: int, out: int) -> None:
    """out += one row of a matrix."""
    groups = -(-n_columns // GROUP)
    tile = weights + row // LANES * groups * group_bytes
    for column in range(n_columns):
        at = tile + column // GROUP * group_bytes
        to = out + 4 * column
        put_float(to, float_at(to) + weight_at(at, form, row % LANES, column % GROUP))
