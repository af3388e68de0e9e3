"""The few pieces of LLVM that the vector operations of `lanes` and `groups` are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

BYTE, SHORT, WORD, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT, HALF = ir.FloatType(), ir.HalfType()


def vector(*values: int) -> Any:
    """A constant of int32: which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(WORD, len(values)), list(values))


def filled(value: float, kind: Any) -> Any:
    """A constant of the vector type `kind`, with the same value in all its lanes."""
    return ir.Constant(kind, [value] * kind.count)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """The same value in all lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, WORD(0)), nothing, vector(*[0] * lanes))


def cut(builder: Any, value: Any, first: int, size: int) -> Any:
    """So many lanes, from `first` on."""
    return builder.shuffle_vector(value, value, vector(*range(first, first + size)))


def joined(builder: Any, parts: Sequence[Any]) -> Any:
    """The lanes of vectors of one type, of which there are 2, 4, 8, ..., one after the other."""
    while len(parts) > 1:
        order = vector(*range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    """A value of type `kind` from an address in bytes."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder: Any, address: Any, value: Any, align: int) -> None:
    """A value to an address in bytes."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align)


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """What the function `name`, one of LLVM's or of C's, makes of the values."""
    kind = ir.FunctionType(result, [value.type for value in values])
    module = builder.module
    function = module.globals[name] if name in module.globals else ir.Function(module, kind, name)
    return builder.call(function, values)


def held(builder: Any, values: Sequence[Any]) -> list[Any]:
    """The same values, all of them in registers of x86 here.

    LLVM can put off none of the sums that they are, for which too many of their terms would have to wait.
    """
    kinds, numbers = [each.type for each in values], range(len(values))
    constraints = ",".join([*("=x" for _ in numbers), *map(str, numbers)])
    same = ir.InlineAsm(ir.FunctionType(ir.LiteralStructType(kinds), kinds), "", constraints, side_effect=True)
    kept = builder.call(same, values)
    return [builder.extract_value(kept, i) for i in numbers]
