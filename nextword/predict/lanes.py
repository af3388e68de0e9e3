"""Thirty-two numbers at a time: the vector type that the kernels are written in.

`Floats` and `Ints` are 32 float32 or int32 numbers that stay in registers while numba compiles a kernel, so that
`fma(weights, x, total)` is one line of source and a few machine instructions. LLVM fits 32 lanes to what the
machine has: two registers of AVX-512, four of AVX2, eight of NEON.

Memory is given as an address in bytes, because a kernel walks through weights, scales and positions of different
sizes. Every operation rounds in one fixed way (a fused multiply-add is always fused, sums over lanes always pair
the same lanes), which is what makes equal inputs give equal bits.

`dot4` is the one operation for which machines have a special instruction (VNNI) that LLVM does not find by itself;
without it the same integers come from ordinary arithmetic.
"""

from __future__ import annotations

import inspect
import operator
import platform
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import binding, ir
from numba import njit, types
from numba.core import config
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 32

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
    """32 int32, or 128 bytes, as kernels see them; + and - work lane by lane, & << >> with one number."""

    def __add__(self, other: Ints) -> Ints: ...
    def __sub__(self, other: Ints) -> Ints: ...
    def __and__(self, mask: int) -> Ints: ...
    def __lshift__(self, bits: int) -> Ints: ...
    def __rshift__(self, bits: int) -> Ints: ...


_BIT, _BYTE, _SHORT, _WORD, _LONG = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT, _HALF = ir.FloatType(), ir.HalfType()
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_WORD, LANES)


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


def _operation(result: Any, *parameters: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes what kernels can call of a function that writes LLVM: (builder, values) -> value."""

    def decorate(write: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, *given: Any) -> Any:
            def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                written = write(builder, *values)
                return context.get_dummy_value() if written is None else written

            return result(*parameters), lower

        typed.__name__, typed.__doc__ = write.__name__, write.__doc__
        typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
        return intrinsic(typed)

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
        return write(builder, a, _splat(builder, b) if by_number else b)


def features() -> set[str]:
    """What compiled code may use of this machine's processor, in LLVM's names."""
    if config.CPU_NAME == "generic":
        return set()
    return {name for name, there in binding.get_host_cpu_features().items() if there}


def _vector(*values: float, kind: Any = _WORD) -> Any:
    return ir.Constant(ir.VectorType(kind, len(values)), list(values))


def _splat(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, _WORD(0)), nothing, _vector(*[0] * LANES))


def _constant(value: int) -> Any:
    return _vector(*[value] * LANES)


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, address: Any, value: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align)


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in values])
    module = builder.module
    function = module.globals[name] if name in module.globals else ir.Function(module, kind, name)
    return builder.call(function, values)


# --- memory ---


@_operation(FLOATS, ADDRESS)
def floats_at(builder: Any, address: Any) -> Any:
    """32 neighbouring float32."""
    return _load(builder, address, _FLOATS, 4)


@_operation(INTS, ADDRESS)
def ints_at(builder: Any, address: Any) -> Any:
    """32 neighbouring int32, or 128 bytes."""
    return _load(builder, address, _INTS, 4)


@_operation(FLOATS, ADDRESS)
def brains_at(builder: Any, address: Any) -> Any:
    """32 neighbouring bfloat16, which are upper halves of float32."""
    shorts = _load(builder, address, ir.VectorType(_SHORT, LANES), 2)
    return builder.bitcast(builder.shl(builder.zext(shorts, _INTS), _constant(16)), _FLOATS)


def _converts_halves() -> bool:
    return "f16c" in features() or platform.machine() in ("aarch64", "arm64")


@_operation(FLOATS, ADDRESS)
def halves_at(builder: Any, address: Any) -> Any:
    """32 neighbouring float16 (finite)."""
    if _converts_halves():
        return builder.fpext(_load(builder, address, ir.VectorType(_HALF, LANES), 2), _FLOATS)
    bits = builder.zext(_load(builder, address, ir.VectorType(_SHORT, LANES), 2), _INTS)
    sign = builder.shl(builder.and_(bits, _constant(0x8000)), _constant(16))
    magnitude = builder.bitcast(builder.shl(builder.and_(bits, _constant(0x7FFF)), _constant(13)), _FLOATS)
    magnitude = builder.fmul(magnitude, _vector(*[2.0**112] * LANES, kind=_FLOAT))  # the difference of the exponents
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, _INTS), sign), _FLOATS)


@_operation(FLOAT, ADDRESS)
def float_at(builder: Any, address: Any) -> Any:
    """One float32."""
    return _load(builder, address, _FLOAT, 4)


@_operation(INT, ADDRESS)
def int_at(builder: Any, address: Any) -> Any:
    """One int32, or four bytes."""
    return _load(builder, address, _WORD, 4)


@_operation(COUNT, ADDRESS)
def long_at(builder: Any, address: Any) -> Any:
    """One int64."""
    return _load(builder, address, _LONG, 8)


@_operation(INT, ADDRESS)
def byte_at(builder: Any, address: Any) -> Any:
    """One byte, 0 to 255."""
    return builder.zext(_load(builder, address, _BYTE, 1), _WORD)


@_operation(NOTHING, ADDRESS, FLOATS)
def put_floats(builder: Any, address: Any, value: Any) -> None:
    """Write 32 float32."""
    _store(builder, address, value, 4)


@_operation(NOTHING, ADDRESS, FLOATS)
def put_halves(builder: Any, address: Any, value: Any) -> None:
    """Write 32 float16, rounded to nearest; what float16 cannot hold becomes its largest number."""
    _store(builder, address, _to_halves(builder, value), 2)


@_operation(NOTHING, ADDRESS, INTS)
def put_bytes(builder: Any, address: Any, value: Any) -> None:
    """Write the lowest byte of each lane: 32 bytes."""
    _store(builder, address, builder.trunc(value, ir.VectorType(_BYTE, LANES)), 1)


@_operation(NOTHING, ADDRESS, FLOAT)
def put_float(builder: Any, address: Any, value: Any) -> None:
    """Write one float32."""
    _store(builder, address, value, 4)


@_operation(NOTHING, ADDRESS, INT)
def put_int(builder: Any, address: Any, value: Any) -> None:
    """Write one int32."""
    _store(builder, address, value, 4)


@_operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_floats(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Write each lane as a float32, `stride` bytes from one to the next."""
    _scatter(builder, address, stride, value, 4)


@_operation(NOTHING, ADDRESS, COUNT, FLOATS)
def scatter_halves(builder: Any, address: Any, stride: Any, value: Any) -> None:
    """Write each lane as a float16 (see `put_halves`), `stride` bytes from one to the next."""
    _scatter(builder, address, stride, _to_halves(builder, value), 2)


def _scatter(builder: Any, address: Any, stride: Any, vector: Any, align: int) -> None:
    for lane in range(LANES):
        _store(builder, address, builder.extract_element(vector, _WORD(lane)), align)
        address = builder.add(address, stride)


def _to_halves(builder: Any, value: Any) -> Any:
    largest, smallest = (_vector(*[limit] * LANES, kind=_FLOAT) for limit in (65504.0, -65504.0))
    value = builder.select(builder.fcmp_ordered(">", value, largest), largest, value)
    value = builder.select(builder.fcmp_ordered("<", value, smallest), smallest, value)
    if _converts_halves():
        return builder.fptrunc(value, ir.VectorType(_HALF, LANES))
    bits = builder.bitcast(value, _INTS)
    sign = builder.and_(builder.lshr(bits, _constant(16)), _constant(0x8000))
    magnitude = builder.bitcast(builder.and_(bits, _constant(0x7FFFFFFF)), _FLOATS)
    magnitude = builder.fmul(magnitude, _vector(*[2.0**-112] * LANES, kind=_FLOAT))
    bits = builder.bitcast(magnitude, _INTS)
    odd = builder.and_(builder.lshr(bits, _constant(13)), _constant(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _constant(0xFFF)), odd), _constant(13))
    return builder.trunc(builder.or_(rounded, sign), ir.VectorType(_SHORT, LANES))


# --- arithmetic, lane by lane ---

_operator(operator.add, FLOATS, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, FLOATS, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, FLOATS, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, FLOATS, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.add, INTS, lambda builder, a, b: builder.add(a, b))
_operator(operator.sub, INTS, lambda builder, a, b: builder.sub(a, b))
_operator(operator.and_, INTS, lambda builder, a, b: builder.and_(a, b), by_number=True)
_operator(operator.lshift, INTS, lambda builder, a, b: builder.shl(a, b), by_number=True)
_operator(operator.rshift, INTS, lambda builder, a, b: builder.ashr(a, b), by_number=True)


@_operation(FLOATS, FLOAT)
def every(builder: Any, value: Any) -> Any:
    """The same float32 in all lanes."""
    return _splat(builder, value)


@_operation(INTS, INT)
def every_int(builder: Any, value: Any) -> Any:
    """The same int32, or the same four bytes, in all lanes."""
    return _splat(builder, value)


@_operation(FLOATS, FLOATS, FLOATS, FLOATS)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return _call(builder, f"llvm.fma.v{LANES}f32", _FLOATS, a, b, c)


@_operation(INTS, INTS, INTS, INTS)
def dot4(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """total + the products of the four unsigned bytes of `a` and the four signed bytes of `b`, in each lane."""
    if "avx512vnni" in features():
        halves = [[builder.shuffle_vector(v, v, _vector(*range(at, at + 16))) for v in (total, a, b)] for at in (0, 16)]
        low, high = (_call(builder, "llvm.x86.avx512.vpdpbusd.512", each[0].type, *each) for each in halves)
        return builder.shuffle_vector(low, high, _vector(*range(LANES)))
    for byte in range(4):
        unsigned = builder.and_(builder.lshr(a, _constant(8 * byte)), _constant(255))
        signed = builder.ashr(builder.shl(b, _constant(24 - 8 * byte)), _constant(24))
        total = builder.add(total, builder.mul(unsigned, signed))
    return total


@_operation(FLOATS, INTS)
def as_floats(builder: Any, value: Any) -> Any:
    """int32 to the nearest float32."""
    return builder.sitofp(value, _FLOATS)


@_operation(INTS, FLOATS)
def as_ints(builder: Any, value: Any) -> Any:
    """float32 to the nearest integer, halves to even."""
    return builder.fptosi(_call(builder, f"llvm.rint.v{LANES}f32", _FLOATS, value), _INTS)


@_operation(FLOATS, INTS)
def bits_as_floats(builder: Any, value: Any) -> Any:
    """The same bits, read as float32."""
    return builder.bitcast(value, _FLOATS)


@_operation(FLOATS, FLOATS, FLOATS)
def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger of two; `b` where one is undefined."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_operation(FLOATS, FLOATS)
def magnitude(builder: Any, value: Any) -> Any:
    """Without its sign."""
    return _call(builder, f"llvm.fabs.v{LANES}f32", _FLOATS, value)


@_operation(FLOATS, FLOATS, COUNT, COUNT, FLOAT)
def keep(builder: Any, value: Any, first: Any, last: Any, other: Any) -> Any:
    """The lanes from `first` to before `last`, and `other` in the rest."""
    wide = ir.VectorType(_LONG, LANES)
    lane = ir.Constant(wide, list(range(LANES)))
    after = builder.icmp_signed(">=", lane, _splat(builder, first))
    before = builder.icmp_signed("<", lane, _splat(builder, last))
    return builder.select(builder.and_(after, before), value, _splat(builder, other))


@_operation(FLOAT, FLOATS, COUNT)
def lane(builder: Any, value: Any, index: Any) -> Any:
    """One of the lanes."""
    return builder.extract_element(value, index)


# --- over the lanes, always in the same order ---


def _fold(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Lanes i and i + half, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        low, high = (builder.shuffle_vector(value, value, _vector(*range(at, at + width))) for at in (0, width))
        value = join(low, high)
    return builder.extract_element(value, _WORD(0))


@_operation(FLOAT, FLOATS)
def total(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.fadd)


@_operation(INT, INTS)
def total_int(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(builder, value, builder.add)


@_operation(FLOAT, FLOATS)
def peak(builder: Any, value: Any) -> Any:
    """The largest lane."""
    return _fold(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


# --- between threads ---


@_operation(COUNT, ADDRESS, COUNT)
def fetch_add(builder: Any, address: Any, value: Any) -> Any:
    """Adds to a counter that threads share; what it was before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, _LONG.as_pointer()), value, "acq_rel")


@_operation(COUNT, ADDRESS)
def counter_at(builder: Any, address: Any) -> Any:
    """A counter that threads share, and with it all that was written before it was raised."""
    return builder.load_atomic(builder.inttoptr(address, _LONG.as_pointer()), "acquire", 8)


@_operation(NOTHING)
def pause(builder: Any) -> None:
    """A breath between two looks at a counter."""
    if platform.machine() in ("x86_64", "AMD64"):
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())


@_operation(NOTHING)
def yield_core(builder: Any) -> None:
    """Let another thread have this core, if one wants it."""
    if sys.platform != "win32":
        _call(builder, "sched_yield", _WORD)
