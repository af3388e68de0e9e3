"""Room that costs memory only where it is written: a server keeps many long texts' worth and mostly uses little.

numpy asks Linux to back large arrays with pages of 2 MiB. Keys and values of one position lie in many places, so that
the first token of a text would touch, and thereby take, all the room there is.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt


def reserve(numbers: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros [numbers], in pages of the ordinary size where there is a choice. Raises MemoryError."""
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(numbers, dtype)
    try:
        room = mmap.mmap(-1, numbers * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, dtype)
