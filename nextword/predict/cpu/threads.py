"""The thread pool that runs forward passes, and the counters by which its threads share out a pass.

The protocol between caller and workers is compiled (kernels/parallel.py). `ThreadPool.run` is called by one thread at a
time. Workers poll for the next pass for a millisecond or two, then sleep. A forked process has none of its parent's
workers and starts its own.
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

from nextword.predict.cpu.layout import MAILBOX_BYTES, PARKED_OFFSET, PHASE_BYTES
from nextword.predict.cpu.memory import aligned

Counters = npt.NDArray[np.int64]
Mailboxes = npt.NDArray[np.int64]
_WAS_PARKED = PARKED_OFFSET // 8


def new_counters(n_phases: int) -> Counters:
    """The counters of one pass of at most `n_phases` phases, int64; zeros."""
    return np.zeros((n_phases + 1) * PHASE_BYTES // 8, np.int64)


class Kernels(NamedTuple):
    """The compiled functions that a pool calls. `kernel_cache` compiles each under the name of its field.

    Arguments are numbers and addresses, all int64; a parameter `call` is the address of a packed struct.

    Attributes:
        run_thread: (thread, mailboxes, n_workers, call), made by `kernels/parallel.py: run_thread_of` of the pass in
            `kernels/forward.py`. Thread 0 runs the pass `call`; a worker runs pass after pass until it is to sleep.
        call_workers: (mailboxes, n_workers, call), in `kernels/parallel.py`.
        join_workers: (mailboxes, n_workers), in `kernels/parallel.py`.
    """

    run_thread: Callable[[int, int, int, int], None]
    call_workers: Callable[[int, int, int], None]
    join_workers: Callable[[int, int], None]


class ThreadPool:
    """`size` threads: the caller and `size - 1` workers, which start with the first pass."""

    def __init__(self, size: int, kernels: Kernels) -> None:
        self.size = size
        self._kernels = kernels
        self._wakeups: list[SimpleQueue[bool]] = []  # one per worker: True wakes it, False ends it
        self._process = 0

    def run(self, call: int) -> None:
        """Run one forward pass; `call` is the address of its packed Call struct.

        Returns when every worker has left the pass, so its buffers may be reused.
        """
        if self._process != os.getpid():
            self._start()
        mailboxes, n_workers = self._mailboxes_address, len(self._wakeups)
        try:
            self._kernels.call_workers(mailboxes, n_workers, call)
            for wakeups, was_parked in zip(self._wakeups, self._mailboxes[:, _WAS_PARKED].tolist(), strict=True):
                if was_parked:
                    wakeups.put(True)
            self._kernels.run_thread(0, mailboxes, n_workers, call)
        except BaseException:  # Ctrl-C: a worker may have been called and not woken, and none may go on
            for wakeups in self._wakeups:
                wakeups.put(True)
            self._kernels.join_workers(mailboxes, n_workers)
            raise

    def _start(self) -> None:
        self._process, self._wakeups = os.getpid(), [SimpleQueue() for _ in range(1, self.size)]
        self._mailboxes: Mailboxes = aligned((len(self._wakeups), MAILBOX_BYTES // 8), np.int64)
        self._mailboxes_address: int = self._mailboxes.ctypes.data
        for thread, wakeups in enumerate(self._wakeups, 1):
            given = (thread, wakeups, self._kernels, self._mailboxes)
            threading.Thread(target=_work, args=given, name=f"nextword-{thread}", daemon=True).start()
        weakref.finalize(self, _end, self._process, self._wakeups)


def _end(process: int, workers: Sequence[SimpleQueue[bool]]) -> None:
    """End a pool's workers, if this is the process that has them."""
    if process == os.getpid():
        for wakeups in workers:
            wakeups.put(False)


def _work(thread: int, wakeups: SimpleQueue[bool], kernels: Kernels, mailboxes: Mailboxes) -> None:
    """The life of a worker: asleep in `get`, or in compiled code."""
    while wakeups.get():
        kernels.run_thread(thread, mailboxes.ctypes.data, len(mailboxes), 0)
