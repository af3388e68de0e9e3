"""Thirty-two numbers at a time: the vector type that the kernels are written in.

`Floats` and `Ints` are 32 float32 or int32 numbers that stay in registers while numba compiles a kernel, so that
`fma(weights, x, total)` is one line of source and a few machine instructions. LLVM fits 32 lanes to what the
machine has: two registers of AVX-512, four of AVX2, eight of NEON.

Memory is given as an address in bytes, because a kernel walks through weights, scales and positions of different
sizes. Every operation rounds in one fixed way (a fused multiply-add is always fused, sums over lanes always pair
the same lanes), which is what makes equal inputs give equal bits.

What LLVM does not find by itself, products of small integers, is in `groups`.
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
    """Compiles a function when it is first used; it runs without Python's global lock."""
    compiled: Function = njit(nogil=True, error_model="numpy")(function)
    return compiled


def inlined(function: Function) -> Function:
    """A kernel that becomes part of those that use it."""
    compiled: Function = njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled


def spliced(function: Function) -> Function:
    """A kernel whose source becomes part of those that use it: for one that is given a function to call."""
    compiled: Function = njit(nogil=True, error_model="numpy", inline="always")(function)
    return compiled


class Floats:
    """32 float32, as kernels see them; + - * / work lane by lane."""

    def __add__(self, other: Floats) -> Floats: ...
    def __sub__(self, other: Floats) -> Floats: ...
    def __mul__(self, other: Floats) -> Floats: ...
    def __truediv__(self, other: Floats) -> Floats: ...


class Ints:
    """32 int32, or 128 bytes, as kernels see them; + and - work lane by lane, << >> with one number."""

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
    """Makes what kernels can call of a function that writes LLVM: (builder, values) -> value."""

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
    """Gives two vectors, or a vector and one number, an operator."""
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
    """32 neighbouring float32."""
    return load(builder, address, _FLOATS, 4)


@operation(INTS, ADDRESS)
def ints_at(builder: Any, address: Any) -> Any:
    """32 neighbouring int32, or 128 bytes: how the bench of generating reads memory, and nothing else."""
    return load(builder, address, _INTS, 4)


@operation(FLOATS, ADDRESS)
def brains_at(builder: Any, address: Any) -> Any:
    """32 neighbouring bfloat16, which are upper halves of float32."""
    shorts = load(builder, address, ir.VectorType(SHORT, LANES), 2)
    return builder.bitcast(builder.shl(builder.zext(shorts, _INTS), filled(16, _INTS)), _FLOATS)


def _converts_halves() -> bool:
    return "f16c" in processor.features() or platform.machine() in ("aarch64", "arm64")


@operation(FLOATS, ADDRESS)
def halves_at(builder: Any, address: Any) -> Any:
    """32 neighbouring float16 (finite)."""
    if _converts_halves():
        return builder.fpext(load(builder, address, ir.VectorType(HALF, LANES), 2), _FLOATS)
    bits = builder.zext(load(builder, address, ir.VectorType(SHORT, LANES), 2), _INTS)
    sign = builder.shl(builder.and_(bits, filled(0x8000, _INTS)), filled(16, _INTS))
    magnitude = builder.bitcast(builder.shl(builder.and_(bits, filled(0x7FFF, _INTS)), filled(13, _INTS)), _FLOATS)
    magnitude = builder.fmul(magnitude, filled(2.0**112, _FLOATS))  # the difference of the exponents
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, _INTS), sign), _FLOATS)


@operation(FLOATS, ADDRESS)
def signed_bytes_at(builder: Any, address: Any) -> Any:
    """32 neighbouring bytes, -128 to 127."""
    small = load(builder, address, ir.VectorType(BYTE, LANES), 1)
    return builder.sitofp(builder.sext(small, _INTS), _FLOATS)


@operation(FLOAT, ADDRESS)
def float_at(builder: Any, address: Any) -> Any:
    """One float32."""
    return load(builder, address, llvm.FLOAT, 4)


@operation(INT, ADDRESS)
def int_at(builder: Any, address: Any) -> Any:
    """One int32, or four bytes."""
    return load(builder, address, WORD, 4)


@operation(COUNT, ADDRESS)
def long_at(builder: Any, address: Any) -> Any:
    """One int64."""
    return load(builder, address, LONG, 8)


@operation(INT, ADDRESS)
def byte_at(builder: Any, address: Any) -> Any:
    """One byte, 0 to 255."""
    return builder.zext(load(builder, address, BYTE, 1), WORD)


def fetcher(n_lines: int) -> Any:
    """Makes what kernels can call: neighbouring cache lines, of any address, are brought into the second cache."""

    @operation(NOTHING, ADDRESS)
    def fetch(builder: Any, address: Any) -> None:
        to_read, second_cache, data = WORD(0), WORD(2), WORD(1)
        for line in range(n_lines):
            at = builder.inttoptr(builder.add(address, LONG(LINE * line)), BYTE.as_pointer())
            call(builder, "llvm.prefetch.p0", ir.VoidType(), at, to_read, second_cache, data)

    return fetch


@operation(NOTHING, ADDRESS, FLOATS)
def put_floats(builder: Any, address: Any, value: Any) -> None:
    """Write 32 float32."""
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, FLOATS)
def put_halves(builder: Any, address: Any, value: Any) -> None:
    """Write 32 float16, rounded to nearest; what float16 cannot hold becomes its largest number."""
    store(builder, address, _to_halves(builder, value), 2)


@operation(NOTHING, ADDRESS, INTS)
def put_bytes(builder: Any, address: Any, value: Any) -> None:
    """Write the lowest byte of each lane: 32 bytes."""
    store(builder, address, builder.trunc(value, ir.VectorType(BYTE, LANES)), 1)


@operation(NOTHING, ADDRESS, INTS)
def put_shorts(builder: Any, address: Any, value: Any) -> None:
    """Write the lower half of each lane: 32 int16."""
    store(builder, address, builder.trunc(value, ir.VectorType(SHORT, LANES)), 2)


@operation(NOTHING, ADDRESS, FLOAT)
def put_float(builder: Any, address: Any, value: Any) -> None:
    """Write one float32."""
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, INT)
def put_int(builder: Any, address: Any, value: Any) -> None:
    """Write one int32."""
    store(builder, address, value, 4)


@operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_floats(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Write each lane as a float32, `stride` bytes from one to the next."""
    _scatter(builder, address, stride, value, 4)


@operation(NOTHING, ADDRESS, COUNT, INTS)
def scatter_bytes(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Write the lowest byte of each lane, `stride` bytes from one to the next."""
    _scatter(builder, address, stride, builder.trunc(value, ir.VectorType(BYTE, LANES)), 1)


@operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_halves(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Write each lane as a float16 (see `put_halves`), `stride` bytes from one to the next."""
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
def every(builder: Any, value: Any) -> Any:
    """The same float32 in all lanes."""
    return splat(builder, value, LANES)


@operation(INTS, INT)
def every_int(builder: Any, value: Any) -> Any:
    """The same int32, or the same four bytes, in all lanes."""
    return splat(builder, value, LANES)


@operation(FLOATS, FLOATS, FLOATS, FLOATS)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return call(builder, f"llvm.fma.v{LANES}f32", _FLOATS, a, b, c)


@operation(FLOATS, INTS)
def as_floats(builder: Any, value: Any) -> Any:
    """int32 to the nearest float32."""
    return builder.sitofp(value, _FLOATS)


@operation(INTS, FLOATS)
def as_ints(builder: Any, value: Any) -> Any:
    """float32 to the nearest integer, halves to even."""
    return builder.fptosi(call(builder, f"llvm.rint.v{LANES}f32", _FLOATS, value), _INTS)


@operation(FLOATS, INTS)
def bits_as_floats(builder: Any, value: Any) -> Any:
    """The same bits, read as float32."""
    return builder.bitcast(value, _FLOATS)


@operation(FLOATS, FLOATS, FLOATS)
def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger of two; `b` where one is undefined."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@operation(FLOATS, FLOATS)
def magnitude(builder: Any, value: Any) -> Any:
    """Without its sign."""
    return call(builder, f"llvm.fabs.v{LANES}f32", _FLOATS, value)


@operation(FLOATS, FLOATS, COUNT, COUNT, FLOAT)
def keep(builder: Any, value: Any, first: Any, last: Any, other: Any) -> Any:
    """The lanes from `first` to before `last`, and `other` in the rest."""
    lane = ir.Constant(_INTS, list(range(LANES)))
    bounds = [_within(builder, bound, 0, LANES) for bound in (first, last)]
    after, before = (splat(builder, builder.trunc(bound, WORD), LANES) for bound in bounds)
    after, before = builder.icmp_signed(">=", lane, after), builder.icmp_signed("<", lane, before)
    return builder.select(builder.and_(after, before), value, splat(builder, other, LANES))


def _within(builder: Any, value: Any, low: int, high: int) -> Any:
    value = builder.select(builder.icmp_signed("<", value, LONG(low)), LONG(low), value)
    return builder.select(builder.icmp_signed(">", value, LONG(high)), LONG(high), value)


@operation(FLOAT, FLOATS, COUNT)
def lane(builder: Any, value: Any, index: Any) -> Any:
    """One of the lanes."""
    return builder.extract_element(value, index)


# --- over the lanes, always in the same order ---


def _fold(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Lanes i and i + half, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        value = join(cut(builder, value, 0, width), cut(builder, value, width, width))
    return builder.extract_element(value, WORD(0))


@operation(FLOAT, FLOATS)
def total(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.fadd)


@operation(INT, INTS)
def total_int(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.add)


@operation(FLOAT, FLOATS)
def peak(builder: Any, value: Any) -> Any:
    """The largest lane."""
    return _fold(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


# --- between threads ---


@operation(COUNT, ADDRESS, COUNT)
def fetch_add(builder: Any, address: Any, value: Any) -> Any:
    """Adds to a counter that threads share; what it was before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, LONG.as_pointer()), value, "acq_rel")


@operation(COUNT, ADDRESS, COUNT)
def exchange(builder: Any, address: Any, value: Any) -> Any:
    """Sets an int64 that threads share; what it was before."""
    return builder.atomic_rmw("xchg", builder.inttoptr(address, LONG.as_pointer()), value, "acq_rel")


@operation(types.boolean, ADDRESS, COUNT, COUNT)
def replace(builder: Any, address: Any, before: Any, after: Any) -> Any:
    """Sets an int64 that threads share if it is `before`; whether it was."""
    pointer = builder.inttoptr(address, LONG.as_pointer())
    return builder.extract_value(builder.cmpxchg(pointer, before, after, "acq_rel", "acquire"), 1)


@operation(NOTHING, ADDRESS, COUNT)
def put_long(builder: Any, address: Any, value: Any) -> None:
    """Write one int64."""
    store(builder, address, value, 8)


@operation(COUNT, ADDRESS)
def counter_at(builder: Any, address: Any) -> Any:
    """A counter that threads share, and with it all that was written before it was raised."""
    return builder.load_atomic(builder.inttoptr(address, LONG.as_pointer()), "acquire", 8)


@operation(NOTHING)
def pause(builder: Any) -> None:
    """A breath between two looks at a counter."""
    if platform.machine() in ("x86_64", "AMD64"):
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())


@operation(NOTHING)
def yield_core(builder: Any) -> None:
    """Let another thread have this core, if one wants it."""
    if sys.platform != "win32":
        call(builder, "sched_yield", WORD)
