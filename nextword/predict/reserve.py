"""Where arrays of the kernels lie in memory: at the beginning of a cache line, and only as far as they are written.

A vector of lanes that lies in two cache lines is loaded and stored in two halves; numpy aligns to 16 bytes only.

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


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros that begin at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def reserve(numbers: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros [numbers] at a cache line, in pages of the ordinary size where there is a choice. Raises MemoryError."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return aligned((numbers,), dtype)
    try:
        room = mmap.mmap(-1, numbers * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, dtype)
