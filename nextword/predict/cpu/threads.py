"""The threads that run a pass together, and the counters by which they share it out (kernels/parallel.py).

`Team.run` is called by one thread at a time. A while after a pass the helpers sleep. A forked process has none of its
parent's helpers and starts its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nextword.predict.cpu.layout import ASLEEP_AT, DOOR_BYTES, STAGE_BYTES
from nextword.predict.cpu.memory import aligned

Counters = npt.NDArray[np.int64]
Doors = npt.NDArray[np.int64]
_ASLEEP = ASLEEP_AT // 8


def new_counters(n_stages: int) -> Counters:
    """The counters of one pass."""
    return np.zeros((n_stages + 1) * STAGE_BYTES // 8, np.int64)


class Kernels(NamedTuple):
    """What a team calls, with numbers and addresses: see nextword.predict.cpu.kernels.parallel."""

    take_part: Callable[[int, int, int, int], None]
    call_helpers: Callable[[int, int, int], None]
    dismiss: Callable[[int, int], None]


class Team:
    """`size` threads: the caller and its helpers, which start with the first pass."""

    def __init__(self, size: int, kernels: Kernels) -> None:
        self.size = size
        self._kernels = kernels
        self._tasks: list[SimpleQueue[bool]] = []
        self._process = 0

    def run(self, call: int) -> None:
        """Does the pass that the address `call` tells of; when it returns, nobody is at it any more."""
        if self._process != os.getpid():
            self._start()
        doors, n_helpers = self._doors_at, len(self._tasks)
        try:
            self._kernels.call_helpers(doors, n_helpers, call)
            for tasks, asleep in zip(self._tasks, self._doors[:, _ASLEEP].tolist(), strict=True):
                if asleep:
                    tasks.put(True)
            self._kernels.take_part(0, doors, n_helpers, call)
        except BaseException:  # Ctrl-C: somebody may have been called and not woken, and nobody may go on
            for tasks in self._tasks:
                tasks.put(True)
            self._kernels.dismiss(doors, n_helpers)
            raise

    def _start(self) -> None:
        self._process, self._tasks = os.getpid(), [SimpleQueue() for _ in range(1, self.size)]
        self._doors: Doors = aligned((len(self._tasks), DOOR_BYTES // 8), np.int64)
        self._doors_at: int = self._doors.ctypes.data
        for thread, tasks in enumerate(self._tasks, 1):
            given = (thread, tasks, self._kernels, self._doors)
            threading.Thread(target=_help, args=given, name=f"nextword-{thread}", daemon=True).start()
        weakref.finalize(self, _end, self._process, self._tasks)


def _end(process: int, helpers: Sequence[SimpleQueue[bool]]) -> None:
    """The end of a team's helpers, said in the process that has them."""
    if process == os.getpid():
        for tasks in helpers:
            tasks.put(False)


def _help(thread: int, tasks: SimpleQueue[bool], kernels: Kernels, doors: Doors) -> None:
    while tasks.get():
        kernels.take_part(thread, doors.ctypes.data, len(doors), 0)
