"""Memory of the kernels' arrays: aligned to cache lines, in pages of the right size.

A vector register that straddles two cache lines is loaded and stored in two halves; numpy aligns to 16 bytes only.

Weights are read sequentially and lie in pages of 2 MiB where Linux has them: the processor translates 512 times fewer
page addresses.

KV caches lie in ordinary pages. A server reserves them for many long texts and mostly uses a little of each. numpy asks
Linux to back large arrays with pages of 2 MiB; keys and values of one position lie in many places, so that the first
token of a text would touch every such page, and make the whole reservation resident.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes: of a cache line, and of the longest vector register
_LARGE_PAGE = 2 << 20  # bytes


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros of this shape and dtype that begin at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(size + LINE, np.uint8)
    start = -buffer.ctypes.data % LINE
    return buffer[start : start + size].view(dtype).reshape(shape)


def reserve(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros, uint8 [n_bytes], at a cache line, in pages of the ordinary size (Linux). Raises MemoryError."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return aligned((n_bytes,), np.uint8)
    return np.frombuffer(_pages(n_bytes, mmap.MADV_NOHUGEPAGE), np.uint8)


def reserve_large(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros, uint8 [n_bytes], at a cache line, in pages of 2 MiB if they fill two (Linux). Raises MemoryError."""
    if not hasattr(mmap, "MADV_HUGEPAGE") or n_bytes < 2 * _LARGE_PAGE:
        return aligned((n_bytes,), np.uint8)
    buffer = np.frombuffer(_pages(n_bytes + _LARGE_PAGE, mmap.MADV_HUGEPAGE), np.uint8)
    start = -buffer.ctypes.data % _LARGE_PAGE
    return buffer[start : start + n_bytes]


def _pages(n_bytes: int, advice: int) -> mmap.mmap:
    """Anonymous memory with a hint (madvise) on its pages. Raises MemoryError."""
    try:
        buffer = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with suppress(OSError):  # a Linux without large pages
        buffer.madvise(advice)
    return buffer
