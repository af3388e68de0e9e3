"""SIMD: the vector types of 32 numbers that the kernels are written in, and their operations.

`Floats` and `Ints` are 32 float32 or int32 numbers that a compiled kernel keeps in registers, so that
`fma(weights, x, sum)` is one line of source and a few machine instructions. LLVM splits 32 lanes into the registers
that the processor has: two of AVX-512, four of AVX2, eight of NEON.

Memory is given as an address, an int64 in bytes, because a kernel walks through weights, scales and positions of
different sizes. Every operation rounds in one fixed way (a fused multiply-add is always fused, sums over lanes always
pair the same lanes), which is what makes equal inputs give equal bits.

A function decorated with `operation` writes LLVM IR. Its first parameter `builder` (llvmlite's IR builder) is numba's;
kernels call it with the others. The dot products of small integers, which LLVM does not find by itself, are in
`int_dot`.
"""

from __future__ import annotations

import inspect
import operator
import platform
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from nextword.predict.cpu import processor
from nextword.predict.cpu.kernels import llvm
from nextword.predict.cpu.kernels.llvm import BYTE, HALF, LONG, SHORT, WORD, call, cut, filled, load, splat, store
from nextword.predict.cpu.layout import LANES
from nextword.predict.cpu.memory import LINE

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function when it is first called; compiled, it runs without the GIL."""
    compiled: Function = njit(nogil=True, error_model="numpy")(function)
    return compiled


def inlined(function: Function) -> Function:
    """A kernel that LLVM inlines into its callers."""
    compiled: Function = njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled


def spliced(function: Function) -> Function:
    """A kernel that numba inlines into its callers before types are known: for one that is given a function to call."""
    compiled: Function = njit(nogil=True, error_model="numpy", inline="always")(function)
    return compiled


class Floats:
    """32 float32, as kernels see them; + - * / work lane by lane."""

    def __add__(self, other: Floats) -> Floats: ...
    def __sub__(self, other: Floats) -> Floats: ...
    def __mul__(self, other: Floats) -> Floats: ...
    def __truediv__(self, other: Floats) -> Floats: ...


class Ints:
    """32 int32, or 128 bytes, as kernels see them; + and - work lane by lane, << and >> by one number for all."""

    def __add__(self, other: Ints) -> Ints: ...
    def __sub__(self, other: Ints) -> Ints: ...
    def __lshift__(self, bits: int) -> Ints: ...
    def __rshift__(self, bits: int) -> Ints: ...


_FLOATS, _INTS = ir.VectorType(llvm.FLOAT, LANES), ir.VectorType(WORD, LANES)


class _FloatsType(types.Type):
    """numba's type of `Floats`."""


class _IntsType(types.Type):
    """numba's type of `Ints`."""


@register_model(_FloatsType)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(_IntsType)
class _IntsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _INTS)


FLOATS, INTS = _FloatsType("Floats"), _IntsType("Ints")
ADDRESS, COUNT, FLOAT, INT, NOTHING = types.int64, types.int64, types.float32, types.int32, types.void


def operation(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: makes a function that writes LLVM IR, (builder, *values) -> value, one that kernels can call.

    Args:
        result: numba's type of the result.
        *parameters: numba's types of the values.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, *given: Any) -> Any:
            def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                written = write(builder, *values)
                return context.get_dummy_value() if written is None else written

            return result(*parameters), lower

        typed.__name__, typed.__doc__ = write.__name__, write.__doc__
        typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
        made = intrinsic(typed)
        made.write = write  # for operations that are made of others
        return made

    return decorate


def _operator(symbol: Any, kind: Any, write: Callable[[Any, Any, Any], Any], by_number: bool = False) -> None:
    """Define a Python operator for two vectors, or for a vector and one number."""
    other = INT if by_number else kind

    @type_callable(symbol)
    def typed(context: Any) -> Any:
        def of(a: Any, b: Any) -> Any:
            fits = isinstance(b, types.Integer) if by_number else b == kind
            return kind(kind, other) if a == kind and fits else None

        return of

    @lower_builtin(symbol, kind, other)
    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b = values
        return write(builder, a, splat(builder, b, LANES) if by_number else b)


# --- memory ---


@operation(FLOATS, ADDRESS)
def floats_at(builder: Any, address: Any) -> Any:
    """Load 32 consecutive float32."""
    return load(builder, address, _FLOATS, 4)


@operation(INTS, ADDRESS)
def ints_at(builder: Any, address: Any) -> Any:
    """Load 32 consecutive int32, or 128 bytes (used by bench/generate.py alone, to read memory)."""
    return load(builder, address, _INTS, 4)


@operation(FLOATS, ADDRESS)
def bf16_at(builder: Any, address: Any) -> Any:
    """Load 32 consecutive bfloat16, the upper halves of float32."""
    shorts = load(builder, address, ir.VectorType(SHORT, LANES), 2)
    return builder.bitcast(builder.shl(builder.zext(shorts, _INTS), filled(16, _INTS)), _FLOATS)


def _converts_halves() -> bool:
    return "f16c" in processor.features() or platform.machine() in ("aarch64", "arm64")


@operation(FLOATS, ADDRESS)
def fp16_at(builder: Any, address: Any) -> Any:
    """Load 32 consecutive float16, which must be finite."""
    if _converts_halves():
        return builder.fpext(load(builder, address, ir.VectorType(HALF, LANES), 2), _FLOATS)
    bits = builder.zext(load(builder, address, ir.VectorType(SHORT, LANES), 2), _INTS)
    sign = builder.shl(builder.and_(bits, filled(0x8000, _INTS)), filled(16, _INTS))
    magnitude = builder.bitcast(builder.shl(builder.and_(bits, filled(0x7FFF, _INTS)), filled(13, _INTS)), _FLOATS)
    magnitude = builder.fmul(magnitude, filled(2.0**112, _FLOATS))  # the difference of the exponents' biases
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, _INTS), sign), _FLOATS)


@operation(FLOATS, ADDRESS)
def int8_at(builder: Any, address: Any) -> Any:
    """Load 32 consecutive int8 as float32."""
    small = load(builder, address, ir.VectorType(BYTE, LANES), 1)
    return builder.sitofp(builder.sext(small, _INTS), _FLOATS)


@operation(FLOAT, ADDRESS)
def float_at(builder: Any, address: Any) -> Any:
    """Load one float32."""
    return load(builder, address, llvm.FLOAT, 4)


@operation(INT, ADDRESS)
def int_at(builder: Any, address: Any) -> Any:
    """Load one int32, or four bytes."""
    return load(builder, address, WORD, 4)


@operation(COUNT, ADDRESS)
def long_at(builder: Any, address: Any) -> Any:
    """Load one int64."""
    return load(builder, address, LONG, 8)


@operation(INT, ADDRESS)
def byte_at(builder: Any, address: Any) -> Any:
    """Load one byte, 0 to 255, as int32."""
    return builder.zext(load(builder, address, BYTE, 1), WORD)


def prefetcher(n_lines: int) -> Any:
    """An operation (address): prefetch `n_lines` consecutive cache lines into the second-level cache."""

    @operation(NOTHING, ADDRESS)
    def prefetch(builder: Any, address: Any) -> None:
        read, second_level, data = WORD(0), WORD(2), WORD(1)
        for line in range(n_lines):
            at = builder.inttoptr(builder.add(address, LONG(LINE * line)), BYTE.as_pointer())
            call(builder, "llvm.prefetch.p0", ir.VoidType(), at, read, second_level, data)

    return prefetch


@operation(NOTHING, ADDRESS, FLOATS)
def put_floats(builder: Any, address: Any, value: Any) -> None:
    """Store 32 consecutive float32.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        value: Floats.
    """
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, FLOATS)
def put_fp16(builder: Any, address: Any, value: Any) -> None:
    """Store 32 consecutive float16, rounded to nearest and clipped to the largest finite float16.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        value: Floats.
    """
    store(builder, address, _to_halves(builder, value), 2)


@operation(NOTHING, ADDRESS, INTS)
def put_bytes(builder: Any, address: Any, value: Any) -> None:
    """Store the lowest byte of each lane: 32 consecutive bytes.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        value: Ints.
    """
    store(builder, address, builder.trunc(value, ir.VectorType(BYTE, LANES)), 1)


@operation(NOTHING, ADDRESS, INTS)
def put_shorts(builder: Any, address: Any, value: Any) -> None:
    """Store the lower half of each lane: 32 consecutive int16.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        value: Ints.
    """
    store(builder, address, builder.trunc(value, ir.VectorType(SHORT, LANES)), 2)


@operation(NOTHING, ADDRESS, FLOAT)
def put_float(builder: Any, address: Any, value: Any) -> None:
    """Store one float32.

    Args:
        builder: The IR builder.
        address: Where it goes.
        value: The number.
    """
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, INT)
def put_int(builder: Any, address: Any, value: Any) -> None:
    """Store one int32.

    Args:
        builder: The IR builder.
        address: Where it goes.
        value: The number.
    """
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_floats(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Store each lane as a float32, `stride` bytes apart.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        stride: Bytes from one lane's place to the next.
        value: Floats.
    """
    _scatter(builder, address, stride, value, 4)


@operation(NOTHING, ADDRESS, COUNT, INTS)
def scatter_bytes(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Store the lowest byte of each lane, `stride` bytes apart.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        stride: Bytes from one lane's place to the next.
        value: Ints.
    """
    _scatter(builder, address, stride, builder.trunc(value, ir.VectorType(BYTE, LANES)), 1)


@operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_fp16(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Store each lane as a float16, rounded as by `put_fp16`, `stride` bytes apart.

    Args:
        builder: The IR builder.
        address: Where the first goes.
        stride: Bytes from one lane's place to the next.
        value: Floats.
    """
    _scatter(builder, address, stride, _to_halves(builder, value), 2)


def _scatter(builder: Any, address: Any, stride: Any, vector: Any, align: int) -> None:
    for lane in range(LANES):
        store(builder, address, builder.extract_element(vector, WORD(lane)), align)
        address = builder.add(address, stride)


def _to_halves(builder: Any, value: Any) -> Any:
    largest, smallest = (filled(limit, _FLOATS) for limit in (65504.0, -65504.0))
    value = builder.select(builder.fcmp_ordered(">", value, largest), largest, value)
    value = builder.select(builder.fcmp_ordered("<", value, smallest), smallest, value)
    if _converts_halves():
        return builder.fptrunc(value, ir.VectorType(HALF, LANES))
    bits = builder.bitcast(value, _INTS)
    sign = builder.and_(builder.lshr(bits, filled(16, _INTS)), filled(0x8000, _INTS))
    magnitude = builder.bitcast(builder.and_(bits, filled(0x7FFFFFFF, _INTS)), _FLOATS)
    magnitude = builder.fmul(magnitude, filled(2.0**-112, _FLOATS))
    bits = builder.bitcast(magnitude, _INTS)
    odd = builder.and_(builder.lshr(bits, filled(13, _INTS)), filled(1, _INTS))
    rounded = builder.lshr(builder.add(builder.add(bits, filled(0xFFF, _INTS)), odd), filled(13, _INTS))
    return builder.trunc(builder.or_(rounded, sign), ir.VectorType(SHORT, LANES))


# --- arithmetic, lane by lane ---

_operator(operator.add, FLOATS, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, FLOATS, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, FLOATS, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, FLOATS, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.add, INTS, lambda builder, a, b: builder.add(a, b))
_operator(operator.sub, INTS, lambda builder, a, b: builder.sub(a, b))
_operator(operator.lshift, INTS, lambda builder, a, b: builder.shl(a, b), by_number=True)
_operator(operator.rshift, INTS, lambda builder, a, b: builder.ashr(a, b), by_number=True)


@operation(FLOATS, FLOAT)
def broadcast(builder: Any, value: Any) -> Any:
    """A float32 in all lanes."""
    return splat(builder, value, LANES)


@operation(INTS, INT)
def broadcast_int(builder: Any, value: Any) -> Any:
    """An int32, or four bytes, in all lanes."""
    return splat(builder, value, LANES)


@operation(FLOATS, FLOATS, FLOATS, FLOATS)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once (fused multiply-add).

    Args:
        builder: The IR builder.
        a: Floats.
        b: Floats.
        c: Floats.
    """
    return call(builder, f"llvm.fma.v{LANES}f32", _FLOATS, a, b, c)


@operation(FLOATS, INTS)
def as_floats(builder: Any, value: Any) -> Any:
    """Each int32 as the nearest float32."""
    return builder.sitofp(value, _FLOATS)


@operation(INTS, FLOATS)
def as_ints(builder: Any, value: Any) -> Any:
    """Each float32 rounded to the nearest int32, halves to even."""
    return builder.fptosi(call(builder, f"llvm.rint.v{LANES}f32", _FLOATS, value), _INTS)


@operation(FLOATS, INTS)
def bits_as_floats(builder: Any, value: Any) -> Any:
    """The same bits, read as float32."""
    return builder.bitcast(value, _FLOATS)


@operation(FLOATS, FLOATS, FLOATS)
def maximum(builder: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers, lane by lane; `b` where one is NaN.

    Args:
        builder: The IR builder.
        a: Floats.
        b: Floats.
    """
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation(FLOATS, FLOATS)
def absolute(builder: Any, value: Any) -> Any:
    """Absolute values."""
    return call(builder, f"llvm.fabs.v{LANES}f32", _FLOATS, value)


@operation(FLOATS, FLOATS, COUNT, COUNT, FLOAT)
def mask_lanes(builder: Any, value: Any, first: Any, last: Any, other: Any) -> Any:
    """The lanes from `first` to before `last`, and `other` in the rest.

    Args:
        builder: The IR builder.
        value: Floats.
        first: The first lane kept; may be negative.
        last: The lane after the last kept; may be more than 32.
        other: A float32.
    """
    lane = ir.Constant(_INTS, list(range(LANES)))
    bounds = [_within(builder, bound, 0, LANES) for bound in (first, last)]
    after, before = (splat(builder, builder.trunc(bound, WORD), LANES) for bound in bounds)
    after, before = builder.icmp_signed(">=", lane, after), builder.icmp_signed("<", lane, before)
    return builder.select(builder.and_(after, before), value, splat(builder, other, LANES))


def _within(builder: Any, value: Any, low: int, high: int) -> Any:
    value = builder.select(builder.icmp_signed("<", value, LONG(low)), LONG(low), value)
    return builder.select(builder.icmp_signed(">", value, LONG(high)), LONG(high), value)


@operation(FLOAT, FLOATS, COUNT)
def extract_lane(builder: Any, value: Any, index: Any) -> Any:
    """One lane of a vector.

    Args:
        builder: The IR builder.
        value: Floats.
        index: The lane.
    """
    return builder.extract_element(value, index)


# --- over the lanes, always in the same order ---


def _fold(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Join lanes i and i + half of the vector, then of the half, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        value = join(cut(builder, value, 0, width), cut(builder, value, width, width))
    return builder.extract_element(value, WORD(0))


@operation(FLOAT, FLOATS)
def lane_sum(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.fadd)


@operation(INT, INTS)
def lane_sum_int(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.add)


@operation(FLOAT, FLOATS)
def lane_max(builder: Any, value: Any) -> Any:
    """The largest lane."""
    return _fold(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


# --- between threads ---


@operation(COUNT, ADDRESS, COUNT)
def fetch_add(builder: Any, address: Any, value: Any) -> Any:
    """Add to a counter that threads share, atomically. Returns what it was before.

    Args:
        builder: The IR builder.
        address: Of an int64 that threads share.
        value: What is added.
    """
    return builder.atomic_rmw("add", builder.inttoptr(address, LONG.as_pointer()), value, "acq_rel")


@operation(COUNT, ADDRESS, COUNT)
def exchange(builder: Any, address: Any, value: Any) -> Any:
    """Set an int64 that threads share, atomically. Returns what it was before.

    Args:
        builder: The IR builder.
        address: Of an int64 that threads share.
        value: The new number.
    """
    return builder.atomic_rmw("xchg", builder.inttoptr(address, LONG.as_pointer()), value, "acq_rel")


@operation(types.boolean, ADDRESS, COUNT, COUNT)
def compare_exchange(builder: Any, address: Any, before: Any, after: Any) -> Any:
    """Set an int64 that threads share if it is `before`, atomically. Returns whether it was.

    Args:
        builder: The IR builder.
        address: Of an int64 that threads share.
        before: The number expected.
        after: The new number.
    """
    pointer = builder.inttoptr(address, LONG.as_pointer())
    return builder.extract_value(builder.cmpxchg(pointer, before, after, "acq_rel", "acquire"), 1)


@operation(NOTHING, ADDRESS, COUNT)
def put_long(builder: Any, address: Any, value: Any) -> None:
    """Store one int64.

    Args:
        builder: The IR builder.
        address: Where it goes.
        value: The number.
    """
    store(builder, address, value, 8)


@operation(COUNT, ADDRESS)
def load_acquire(builder: Any, address: Any) -> Any:
    """Load an int64 that threads share (acquire): what was written before it was set is visible after this."""
    return builder.load_atomic(builder.inttoptr(address, LONG.as_pointer()), "acquire", 8)


@operation(NOTHING)
def pause(builder: Any) -> None:
    """Tell the processor that this is a spin loop, between two polls (x86: PAUSE)."""
    if platform.machine() in ("x86_64", "AMD64"):
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())


@operation(NOTHING)
def yield_core(builder: Any) -> None:
    """Yield the core to another thread, if one is ready to run."""
    if sys.platform != "win32":
        call(builder, "sched_yield", WORD)
