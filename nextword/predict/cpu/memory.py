"""Where arrays of the kernels lie in memory: at the beginning of a cache line, and in pages of the right size.

A vector of lanes that lies in two cache lines is loaded and stored in two halves; numpy aligns to 16 bytes only.

Weights are read on and on, in pages of 2 MiB where Linux has them to give: the processor looks up where a page lies
500 times less often.

A server keeps many long texts' worth of keys and values and mostly uses little of it. numpy asks Linux to back large
arrays with pages of 2 MiB; keys and values of one position lie in many places, so that the first token of a text would
touch, and thereby take, all the room there is.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes of a cache line, and of the longest vector of a processor
_LARGE_PAGE = 2 << 20  # bytes


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def reserve(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros [n_bytes] at a cache line, in pages of the ordinary size where there is a choice. Raises MemoryError."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return aligned((n_bytes,), np.uint8)
    return np.frombuffer(_pages(n_bytes, mmap.MADV_NOHUGEPAGE), np.uint8)


def reserve_large(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros [n_bytes] at a cache line, in large pages if they fill some and there are any. Raises MemoryError."""
    if not hasattr(mmap, "MADV_HUGEPAGE") or n_bytes < 2 * _LARGE_PAGE:
        return aligned((n_bytes,), np.uint8)
    room = np.frombuffer(_pages(n_bytes + _LARGE_PAGE, mmap.MADV_HUGEPAGE), np.uint8)
    start = -room.ctypes.data % _LARGE_PAGE
    return room[start : start + n_bytes]


def _pages(n_bytes: int, advice: int) -> mmap.mmap:
    try:
        room = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with suppress(OSError):  # a kernel without large pages
        room.madvise(advice)
    return room
