"""Integer dot products: 32 columns of 32 outputs' weights times 32 integers of 16 bits. Processors differ most here.

    dot_int8(int8_group_at(weights), x, count)        sum q x for 32 outputs, q of 8 bits
    dot_int4(int4_group_at(weights), x, count)        the same with q of 4 bits
    dot_widened(widened_int8_at(weights), x, count)   the same, for a group that MANY_ROWS vectors x or more share
    dot_widened(widened_int4_at(weights), x, count)

Every sum is exact, so every processor gives the same bits. LLVM does not find these instructions by itself, hence four
implementations:

    VNNI    one instruction (VPDPBUSD) adds four products of bytes to a sum; x goes in as high bytes, then as low ones.
            The 32 registers hold a whole group, which is read from memory once for all vectors x.
    AVX2    has 16 registers, too few for a group, so that a group is read again for each x, from the nearest cache.
            INT8: bytes are widened to 16 bits and multiplied with x (PMADDWD). INT4: products of nibbles and bytes are
            added up in 16 bits (PMADDUBSW), which 8 x 2 x 15 x 128 fits into, and are widened once. For many x the
            group is widened first, into pairs of 16 bits whose products with a pair of x add up to the sum of an
            output, in the order in which outputs are stored.
    NEON    as VNNI, four outputs at a time (SDOT), of signed bytes: q itself.
    any     products of 32 bits.

Weights lie in quads: 32 outputs x 4 columns, a byte each. INT8: 8 quads of q + 128. INT4: 4 quads, whose low nibbles
are columns 0-15 and whose high nibbles are columns 16-31. q is -128 to 127, or 0 to 15. count is the sum of x: an
implementation that multiplies q + 128 subtracts 128 * count; the others ignore it.
x is X_BYTES long: 32 high bytes and 32 low bytes, all signed, x = 256 high + low; then the 32 numbers as int16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nextword.predict.cpu import processor
from nextword.predict.cpu.kernels.llvm import (
    BYTE,
    LONG,
    SHORT,
    WORD,
    call,
    cut,
    filled,
    in_registers,
    joined,
    load,
    splat,
    store,
    vector,
)
from nextword.predict.cpu.kernels.simd import (
    ADDRESS,
    INT,
    INTS,
    Ints,
    broadcast_int,
    inlined,
    operation,
    put_bytes,
    put_shorts,
)
from nextword.predict.cpu.layout import GROUP, LANES

MANY_ROWS = 8  # vectors: from this number on it pays to widen a group once for all of them
WIDENS_GROUPS = "avx2" in processor.features() and "avx512vnni" not in processor.features()  # whether it pays at all
_QUADS = GROUP // 4  # quads: of a group
_QUAD_BYTES = 4 * LANES  # bytes: of a quad
_QUADS_TYPE = types.UniTuple(INTS, _QUADS)
_INTS, _PART = ir.VectorType(WORD, LANES), ir.VectorType(WORD, 8)
_BYTES, _SHORTS = ir.VectorType(BYTE, 32), ir.VectorType(SHORT, 16)  # one register of AVX2 each
_HALF = ir.VectorType(BYTE, 16)
_FOUR_INTS, _FOUR_QUARTERS = ir.VectorType(WORD, 4), ir.VectorType(BYTE, 16)  # one register of NEON each
_ALIGNED = 64  # bytes: a cache line
_OFFSET = 128  # added to q of 8 bits where it is stored
Quads = Iterator[tuple[int, Any]]  # (i, quad): a vector of 32 outputs x the columns 4 i to 4 i + 3


@inlined
def put_integers(x: int, n: Ints) -> None:
    """Write 32 integers n, |n| <= 127 * 256, to the address x in the three forms that dot products read."""
    high = (n + broadcast_int(128)) >> 8
    put_bytes(x, high)
    put_bytes(x + GROUP, n - (high << 8))
    put_shorts(x + 2 * GROUP, n)


def _reader(read: Callable[[Any, Any], Quads]) -> Any:
    """The operation (address) that loads a group: into registers where they suffice (VNNI), else the address itself.

    read: writes the instructions that load the eight quads, (builder, address).
    """

    def typed(typing_context: Any, address: Any) -> Any:
        quads = _QUADS_TYPE if "avx512vnni" in processor.features() else ADDRESS

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if quads == ADDRESS:
                return values[0]
            in_order = dict(read(builder, *values))
            return context.make_tuple(builder, quads, [in_order[i] for i in range(_QUADS)])

        return quads(ADDRESS), lower

    typed.__name__, typed.__doc__ = read.__name__, read.__doc__
    return intrinsic(typed)


def _multiplier(read: Callable[[Any, Any], Quads], offset: int) -> Callable[[Callable[[Any, Any, Any], Any]], Any]:
    """A decorator: makes the operation (quads, x, count) of a function that writes AVX2's dot product.

    The function is (builder, address of the weights, x) -> sums. The other implementations need only these:

    Args:
        read: Loads the eight quads, (builder, address).
        offset: Added to q where it is stored.
    """

    def decorate(write: Callable[[Any, Any, Any], Any]) -> Any:
        def typed(typing_context: Any, quads: Any, x: Any, count: Any) -> Any:
            def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                weights, x_at, x_count = values
                if "dotprod" in processor.features():
                    return _by_neon(builder, read(builder, weights), x_at, offset)
                start = splat(builder, builder.mul(x_count, WORD(-offset)), LANES) if offset else filled(0, _INTS)
                if quads == _QUADS_TYPE:
                    return _by_vnni(builder, start, [builder.extract_value(weights, i) for i in range(_QUADS)], x_at)
                if "avx2" in processor.features():
                    return builder.add(start, write(builder, weights, x_at))
                return _by_int32(builder, start, read(builder, weights), x_at)

            return INTS(quads, ADDRESS, INT), lower

        typed.__name__, typed.__doc__ = write.__name__, write.__doc__
        return intrinsic(typed)

    return decorate


def _read_bytes(builder: Any, address: Any) -> Quads:
    """Load the eight quads of an INT8 group."""
    for i in range(_QUADS):
        yield i, load(builder, _after(builder, address, _QUAD_BYTES * i), _INTS, 4)


def _read_nibbles(builder: Any, address: Any) -> Quads:
    """Load the eight quads of an INT4 group, those of low nibbles and those of high ones."""
    low = filled(0x0F0F0F0F, _INTS)
    for i in range(_QUADS // 2):
        both = load(builder, _after(builder, address, _QUAD_BYTES * i), _INTS, 4)
        yield i, builder.and_(both, low)
        yield i + _QUADS // 2, builder.and_(builder.lshr(both, filled(4, _INTS)), low)


int8_group_at, int4_group_at = _reader(_read_bytes), _reader(_read_nibbles)


def _widener(read: Callable[[Any, Any], Quads], offset: int) -> Any:
    """The operation (address) that widens a group. Returns the address of int16 [16 pairs of columns, 32 outputs, 2].

    Args:
        read: Loads the eight quads, (builder, address).
        offset: Added to q where it is stored; subtracted here.
    """

    def typed(typing_context: Any, address: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            widened = cgutils.alloca_once(builder, ir.ArrayType(BYTE, _QUADS * 2 * _QUAD_BYTES))
            widened.align = _ALIGNED
            pairs = builder.ptrtoint(widened, LONG)
            shorts = ir.VectorType(SHORT, 2 * LANES)
            for i, quad in read(builder, *values):
                for half, columns in enumerate((quad, builder.lshr(quad, filled(16, _INTS)))):
                    first = builder.and_(columns, filled(0xFF, _INTS))
                    second = builder.shl(builder.and_(columns, filled(0xFF00, _INTS)), filled(8, _INTS))
                    both = builder.bitcast(builder.or_(first, second), shorts)
                    to = _after(builder, pairs, _QUAD_BYTES * (2 * i + half))
                    store(builder, to, builder.sub(both, filled(offset, shorts)), _ALIGNED)
            return pairs

        return ADDRESS(ADDRESS), lower

    typed.__name__ = f"wide{read.__name__}"
    return intrinsic(typed)


widened_int8_at, widened_int4_at = _widener(_read_bytes, _OFFSET), _widener(_read_nibbles, 0)


@operation(INTS, ADDRESS, ADDRESS, INT)
def dot_widened(builder: Any, pairs: Any, x: Any, count: Any) -> Any:
    """sum q x, for 32 outputs of a widened group.

    Args:
        builder: The IR builder.
        pairs: Address of the widened group.
        x: Address of 32 quantized activations, X_BYTES.
        count: The sum of x; ignored.
    """
    sums = [filled(0, _PART)] * (LANES // 8)
    for i in range(2 * _QUADS):
        numbers = load(builder, _after(builder, x, 2 * GROUP + 4 * i), WORD, 2)
        two = builder.bitcast(splat(builder, numbers, 8), _SHORTS)
        for at, sum in enumerate(sums):
            q = load(builder, _after(builder, pairs, _QUAD_BYTES * i + 32 * at), _SHORTS, 32)
            sums[at] = builder.add(sum, call(builder, "llvm.x86.avx2.pmadd.wd", _PART, q, two))
        if i % 4 == 3:
            sums = in_registers(builder, sums)
    return joined(builder, sums)


def _by_neon(builder: Any, quads: Quads, x: Any, offset: int) -> Any:
    """sum q x by NEON's SDOT, four outputs an instruction."""
    digits = [
        [load(builder, _after(builder, x, GROUP * digit + 16 * half), _FOUR_INTS, 4) for half in (0, 1)]
        for digit in (0, 1)
    ]
    sums = [[filled(0, _FOUR_INTS)] * (LANES // 4) for _ in digits]
    signs = filled(-0x7F7F7F80, _INTS)  # 0x80 in each byte: from q + 128, unsigned, to q, signed
    for i, quad in quads:
        signed = builder.xor(quad, signs) if offset else quad
        for of_digit, numbers in zip(sums, digits, strict=True):
            four = builder.shuffle_vector(numbers[i // 4], numbers[i // 4], vector(*[i % 4] * 4))
            four = builder.bitcast(four, _FOUR_QUARTERS)
            for at in range(LANES // 4):
                q = builder.bitcast(cut(builder, signed, 4 * at, 4), _FOUR_QUARTERS)
                of_digit[at] = call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", _FOUR_INTS, of_digit[at], q, four)
    high, low = (joined(builder, of_digit) for of_digit in sums)
    return builder.add(builder.shl(high, filled(8, _INTS)), low)


def _by_vnni(builder: Any, start: Any, quads: list[Any], x: Any) -> Any:
    """start + sum q x by AVX-512 VNNI's VPDPBUSD, 16 outputs an instruction."""
    sums = []
    for digit, begin in ((0, filled(0, _INTS)), (1, start)):
        halves = [cut(builder, begin, 0, 16), cut(builder, begin, 16, 16)]
        for i, quad in enumerate(quads):
            four = splat(builder, load(builder, _after(builder, x, GROUP * digit + 4 * i), WORD, 4), 16)
            for at, half in enumerate(halves):
                part = cut(builder, quad, 16 * at, 16)
                halves[at] = call(builder, "llvm.x86.avx512.vpdpbusd.512", half.type, half, part, four)
        sums.append(joined(builder, halves))
    high, low = sums
    return builder.add(builder.shl(high, filled(8, _INTS)), low)


@_multiplier(_read_bytes, _OFFSET)
def dot_int8(builder: Any, weights: Any, x: Any) -> Any:
    """sum (q + 128) x, for 32 outputs of an INT8 group; the decorator subtracts 128 * count.

    Args:
        builder: The IR builder.
        weights: Address of the group's quads.
        x: Address of 32 quantized activations, X_BYTES.
    """
    fours = [
        builder.bitcast(splat(builder, load(builder, _after(builder, x, 2 * GROUP + 8 * i), LONG, 2), 4), _SHORTS)
        for i in range(_QUADS)
    ]
    parts = []
    for first in range(0, _QUAD_BYTES, 32):
        sums = [filled(0, _PART)] * 2  # of four outputs each: lanes 2 i and 2 i + 1 are one output's
        for i, four in enumerate(fours):
            for half in (0, 1):
                q = load(builder, _after(builder, weights, _QUAD_BYTES * i + first + 16 * half), _HALF, 1)
                products = call(builder, "llvm.x86.avx2.pmadd.wd", _PART, builder.zext(q, _SHORTS), four)
                sums[half] = builder.add(sums[half], products)
        even, odd = (builder.shuffle_vector(*sums, vector(*range(lane, 16, 2))) for lane in (0, 1))
        parts.append(builder.add(even, odd))
    return joined(builder, parts)


@_multiplier(_read_nibbles, 0)
def dot_int4(builder: Any, weights: Any, x: Any) -> Any:
    """sum q x, for 32 outputs of an INT4 group.

    Args:
        builder: The IR builder.
        weights: Address of the group's quads.
        x: Address of 32 quantized activations, X_BYTES.
    """
    low, four_bits = filled(15, _BYTES), filled(4, _BYTES)
    firsts = range(0, _QUAD_BYTES, 32)
    sums = [filled(0, _SHORTS)] * (2 * len(firsts))  # of high bytes of x, then of low ones, for eight outputs each
    for i in range(_QUADS // 2):
        fours = [_four(builder, _after(builder, x, first + 4 * i)) for first in (0, GROUP // 2, GROUP, 3 * GROUP // 2)]
        for part, first in enumerate(firsts):
            both = load(builder, _after(builder, weights, _QUAD_BYTES * i + first), _BYTES, 1)
            halves = builder.and_(both, low), builder.lshr(both, four_bits)
            for digit in (0, 1):
                at = 2 * part + digit
                for q, four in zip(halves, fours[2 * digit :], strict=False):
                    sums[at] = builder.add(sums[at], call(builder, "llvm.x86.avx2.pmadd.ub.sw", _SHORTS, q, four))
        sums = in_registers(builder, sums)
    units = [filled(256, _SHORTS), filled(1, _SHORTS)] * len(firsts)
    digits = [call(builder, "llvm.x86.avx2.pmadd.wd", _PART, *each) for each in zip(sums, units, strict=True)]
    return joined(builder, [builder.add(*digits[at : at + 2]) for at in range(0, len(digits), 2)])


def _four(builder: Any, x: Any) -> Any:
    """The four bytes at x, repeated through a register."""
    return builder.bitcast(splat(builder, load(builder, x, WORD, 1), 8), _BYTES)


def _by_int32(builder: Any, start: Any, quads: Quads, x: Any) -> Any:
    """start + sum q x by multiplications of int32, which every processor has."""
    total = start
    for i, quad in quads:
        for byte in range(4):
            q = builder.and_(builder.lshr(quad, filled(8 * byte, _INTS)), filled(255, _INTS))
            number = load(builder, _after(builder, x, 2 * GROUP + 2 * (4 * i + byte)), SHORT, 2)
            total = builder.add(total, builder.mul(q, splat(builder, builder.sext(number, WORD), LANES)))
    return total


def _after(builder: Any, address: Any, n_bytes: int) -> Any:
    """The address `n_bytes` later."""
    return builder.add(address, address.type(n_bytes))
