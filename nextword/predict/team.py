"""The threads that run a pass together, and the counters by which they share it out (nextword.predict.stages).

`Team.run` is called by one thread at a time. Between passes the helpers sleep. A forked process has none of its
parent's helpers and starts its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from nextword.predict.shapes import STAGE_BYTES

Counters = npt.NDArray[np.int64]


def new_counters(n_stages: int) -> Counters:
    """The counters of one pass. Fresh for each, so that a helper that is late meets a closed door, not a new pass."""
    return np.zeros((n_stages + 1) * STAGE_BYTES // 8, np.int64)


class Team:
    """`size` threads: the caller and its helpers, which start with the first pass."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: list[SimpleQueue[Callable[[int], None] | None]] = []
        self._process = 0

    def run(self, work: Callable[[int], None]) -> None:
        """Calls work(0) here and work(1), work(2), ... in the helpers; returns when work(0) does."""
        if self._process != os.getpid():
            self._start()
        for tasks in self._tasks:
            tasks.put(work)
        work(0)

    def _start(self) -> None:
        self._process, self._tasks = os.getpid(), [SimpleQueue() for _ in range(1, self.size)]
        for thread, tasks in enumerate(self._tasks, 1):
            threading.Thread(target=_help, args=(thread, tasks), name=f"nextword-{thread}", daemon=True).start()
        weakref.finalize(self, _dismiss, self._process, self._tasks)


def _dismiss(process: int, helpers: Sequence[SimpleQueue[Callable[[int], None] | None]]) -> None:
    """The end of a team's helpers, said in the process that has them."""
    if process == os.getpid():
        for tasks in helpers:
            tasks.put(None)


def _help(thread: int, tasks: SimpleQueue[Callable[[int], None] | None]) -> None:
    while (work := tasks.get()) is not None:
        work(thread)
        del work  # what it holds is not kept while waiting
