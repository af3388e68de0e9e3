"""Stages: how the threads of a team share out the work of one pass.

A pass is a sequence of stages, and a stage is a number of pieces: the tiles of a matrix, the rows of a batch. Every
thread of the team runs through all stages of the pass by itself; within a stage each takes the next pieces that
nobody has taken (`share`) until all are done. A stage ends when its pieces are done, whoever did them, so a thread
that the system has put to sleep holds up nothing but the piece in its hands, and one that comes late or not at all
is not missed. Which thread does a piece changes no bit of it.
"""

from __future__ import annotations

from typing import Any

from nextword.predict.lanes import counter_at, fetch_add, kernel, pause, spliced, yield_core
from nextword.predict.shapes import STAGE_BYTES

_DONE = 64
_LOOKS = 4000  # at a counter, before the core is offered to others
_CLOSED = 1 << 32  # added to the number of threads that entered, when no more may


@kernel
def enter(counters: int, thread: int) -> bool:
    """Whether this thread may take part in the pass: it is not over yet."""
    return thread == 0 or fetch_add(counters, 1) < _CLOSED


@kernel
def leave(counters: int, thread: int) -> None:
    """The end of a pass; thread 0 waits for all that entered.

    It may leave twice, and must not wait again: by then helpers that came late have been counted at the closed door.
    """
    if thread == 0:
        entered = fetch_add(counters, _CLOSED)
        if entered < _CLOSED:
            wait_for(counters + _DONE, entered)
    else:
        fetch_add(counters + _DONE, 1)


@spliced
def share(counters: int, stage: int, n_pieces: int, n_threads: int, work: Any, arguments: Any) -> int:
    """Do `work(first, last, *arguments)` for pieces 0 to n_pieces. The number of the next stage.

    They are shared out in rounds, three quarters of what is left in each, an equal run of neighbours for every thread:
    long runs first, because memory gives most when it is read on and on, and single pieces last, so that all threads
    end together.

    counters: their address. Stages are numbered from 1, the same way in all threads.
    """
    taken = counters + stage * STAGE_BYTES
    ticket = fetch_add(taken, 1)
    left = n_pieces >> (2 * (ticket // n_threads))
    while left > 0:
        begin, width, lane = n_pieces - left, left - (left >> 2), ticket % n_threads
        first = begin + -(-lane * width // n_threads)
        last = begin + -(-(lane + 1) * width // n_threads)
        if first < last:
            work(first, last, *arguments)
            fetch_add(taken + _DONE, last - first)
        ticket = fetch_add(taken, 1)
        left = n_pieces >> (2 * (ticket // n_threads))
    wait_for(taken + _DONE, n_pieces)
    return stage + 1


@kernel
def wait_for(counter: int, value: int) -> None:
    """Until the counter at this address has reached the value."""
    looks = 0
    while counter_at(counter) < value:
        looks += 1
        if looks < _LOOKS:
            pause()
        else:
            yield_core()
