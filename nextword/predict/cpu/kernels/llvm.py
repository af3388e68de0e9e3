"""Helpers that write LLVM IR: what the vector operations of `simd`, `int_dot` and `matmul` are made of.

In all of them `builder` is llvmlite's IR builder, positioned where the instructions go, and values are IR values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

BYTE, SHORT, WORD, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT, HALF = ir.FloatType(), ir.HalfType()


def vector(*values: int) -> Any:
    """A constant vector of int32: the lanes that a shuffle takes."""
    return ir.Constant(ir.VectorType(WORD, len(values)), list(values))


def filled(value: float, kind: Any) -> Any:
    """A constant of the vector type `kind` with `value` in all lanes."""
    return ir.Constant(kind, [value] * kind.count)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """A vector with one value in all lanes.

    Args:
        builder: The IR builder.
        value: The value, a scalar.
        lanes: Lanes of the vector.
    """
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, WORD(0)), nothing, vector(*[0] * lanes))


def cut(builder: Any, value: Any, first: int, size: int) -> Any:
    """A slice of a vector.

    Args:
        builder: The IR builder.
        value: The vector.
        first: The first lane of the slice.
        size: Lanes of the slice.
    """
    return builder.shuffle_vector(value, value, vector(*range(first, first + size)))


def joined(builder: Any, parts: Sequence[Any]) -> Any:
    """The concatenation of 1, 2, 4, 8, ... vectors of one type."""
    while len(parts) > 1:
        order = vector(*range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    """Load a value.

    Args:
        builder: The IR builder.
        address: Its address, an int64 in bytes.
        kind: Its type.
        align: Bytes, of which the address is a multiple.
    """
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder: Any, address: Any, value: Any, align: int) -> None:
    """Store a value.

    Args:
        builder: The IR builder.
        address: Its address, an int64 in bytes.
        value: The value.
        align: Bytes, of which the address is a multiple.
    """
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align)


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call a function of LLVM (an intrinsic) or of C.

    Args:
        builder: The IR builder.
        name: Its name, declared in the module if it is not yet.
        result: The type of its result.
        *values: Its arguments.
    """
    kind = ir.FunctionType(result, [value.type for value in values])
    module = builder.module
    function = module.globals[name] if name in module.globals else ir.Function(module, kind, name)
    return builder.call(function, values)


def in_registers(builder: Any, values: Sequence[Any]) -> list[Any]:
    """The same values, forced into vector registers at this point (x86).

    An empty asm statement that takes all values as operands. It forces LLVM to compute these sums here; if it
    postpones them, too many terms stay live and spill to the stack.
    """
    kinds, numbers = [each.type for each in values], range(len(values))
    constraints = ",".join([*("=x" for _ in numbers), *map(str, numbers)])
    same = ir.InlineAsm(ir.FunctionType(ir.LiteralStructType(kinds), kinds), "", constraints, side_effect=True)
    kept = builder.call(same, values)
    return [builder.extract_value(kept, i) for i in numbers]
