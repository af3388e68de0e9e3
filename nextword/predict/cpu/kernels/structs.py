"""Structs in memory, as kernels read them: named tuples that `layout.pack_struct` has packed."""

from __future__ import annotations

from typing import Any, get_type_hints

import numpy as np
from numba import types
from numba.extending import intrinsic

from nextword.predict.cpu.kernels.llvm import FLOAT, LONG, load
from nextword.predict.cpu.kernels.simd import ADDRESS


def struct_reader(kind: type[tuple[Any, ...]]) -> Any:
    """A function for kernels, address -> named tuple: reads the `kind` that is packed at this address."""

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
        number = builder.icmp_unsigned("!=", number, LONG(0))
    return number, builder.add(at, LONG(8))
