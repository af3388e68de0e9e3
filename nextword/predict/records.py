"""Named tuples of numbers that lie in memory: a kernel is called with an address instead of with a hundred numbers.

What Python hands to a compiled function it takes apart number by number; between two passes of a model, which throw
everything else out of the caches, that costs more than a tenth of a millisecond.

A record is a table of int64, a number in each, in the order of the fields; tuples in tuples one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nextword.predict.lanes import ADDRESS
from nextword.predict.llvm import FLOAT, LONG, load

Record = npt.NDArray[np.int64]


def record(numbers: tuple[Any, ...]) -> Record:
    """The table of a named tuple of int, bool, float32 and such tuples, int64 [numbers]."""
    return np.fromiter(_flat(numbers), np.int64)


def _flat(numbers: tuple[Any, ...]) -> Iterator[int]:
    for each in numbers:
        if isinstance(each, tuple):
            yield from _flat(each)
        else:
            yield int(each.view(np.int32)) if isinstance(each, np.float32) else int(each)


def reader(kind: type[tuple[Any, ...]]) -> Any:
    """Makes what kernels can call: the named tuple `kind` whose table is at an address."""

    def typed(typing_context: Any, address: Any) -> Any:
        result = _numba_type(kind)

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return _read(context, builder, result, values[0])[0]

        return result(ADDRESS), lower

    typed.__name__ = f"{kind.__name__.lower()}_at"
    return intrinsic(typed)


def _numba_type(kind: Any) -> Any:
    if issubclass(kind, tuple):
        return types.BaseTuple.from_types([_numba_type(each) for each in get_type_hints(kind).values()], kind)
    return {int: types.int64, bool: types.boolean, np.float32: types.float32}[kind]


def _read(context: Any, builder: Any, kind: Any, at: Any) -> tuple[Any, Any]:
    """A value of numba's type `kind`, and the address after it."""
    if isinstance(kind, types.BaseTuple):
        values = []
        for each in kind.types:
            value, at = _read(context, builder, each, at)
            values.append(value)
        return context.make_tuple(builder, kind, values), at
    number = load(builder, at, FLOAT if kind == types.float32 else LONG, 4)
    if kind == types.boolean:
        number = builder.icmp_unsigned("!=", number, ir.Constant(LONG, 0))
    return number, builder.add(at, LONG(8))
