"""Stages: how the threads of a team share out the work of one pass.

A pass is a sequence of stages, and a stage is a number of pieces: the tiles of a matrix, the rows of a batch. Every
thread of the team runs through all stages of the pass by itself; within a stage each takes the next pieces that
nobody has taken (`share`) until all are done. A stage ends when its pieces are done, whoever did them, so a thread
that the system has put to sleep holds up nothing but the piece in its hands, and one that comes late or not at all
is not missed. Which thread does a piece changes no bit of it.

A helper waits at a door of its own, where it is told of a pass by an address, and looks at the door for a while before
it goes to sleep: between two tokens is less time than it takes to wake a thread. Its door says who may do what next,

    AWAY      the helper sleeps, or is on its way: it must be woken
    WAITING   the helper looks at the door
    CALLED    there is a pass; the helper may take part by making the door BUSY, or the leader call the pass over
    BUSY      the helper takes part; the pass is over only when it has made the door WAITING again

so that nobody touches the memory of a pass that is over.
"""

from __future__ import annotations

from typing import Any

from nextword.predict.cpu.kernels.simd import (
    counter_at,
    exchange,
    fetch_add,
    kernel,
    long_at,
    pause,
    put_long,
    replace,
    spliced,
    yield_core,
)
from nextword.predict.cpu.layout import (
    ASLEEP_AT,
    AWAY,
    BUSY,
    CALL_AT,
    CALLED,
    DOOR_BYTES,
    STAGE_BYTES,
    WAITING,
)

_DONE = 64
_LOOKS = 4000  # at a counter, before the core is offered to others
_PATIENCE = 8000  # looks at a door, before a helper goes to sleep: a millisecond or two


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
def after_look(looks: int) -> int:
    """A breath between two looks, of which there were so many; then the core is offered to others. How many now."""
    if looks < _LOOKS:
        pause()
    else:
        yield_core()
    return looks + 1


@kernel
def wait_for(counter: int, value: int) -> None:
    """Until the counter at this address has reached the value."""
    looks = 0
    while counter_at(counter) < value:
        looks = after_look(looks)


@kernel
def call_helpers(doors: int, n_helpers: int, call: int) -> None:
    """There is a pass: `call` is the address that says which. Tells at each door whether its helper must be woken."""
    for door in range(doors, doors + n_helpers * DOOR_BYTES, DOOR_BYTES):
        put_long(door + CALL_AT, call)
        put_long(door + ASLEEP_AT, exchange(door, CALLED) == AWAY)


@kernel
def dismiss(doors: int, n_helpers: int) -> None:
    """The pass is over as soon as those who take part are done; who has not begun does not begin."""
    for door in range(doors, doors + n_helpers * DOOR_BYTES, DOOR_BYTES):
        if not replace(door, CALLED, WAITING):
            looks = 0
            while counter_at(door) == BUSY:
                looks = after_look(looks)


@kernel
def wait_at(door: int) -> int:
    """A helper's wait for a pass, which it then takes part in: the address that says which; 0 if it is to sleep."""
    replace(door, AWAY, WAITING)
    looks = 0
    while True:
        if counter_at(door) == CALLED and replace(door, CALLED, BUSY):
            return long_at(door + CALL_AT)
        if looks >= _PATIENCE and replace(door, WAITING, AWAY):
            return 0
        looks = after_look(looks)


def shared(part: Any) -> Any:
    """A kernel that does `part(thread, call)` with all threads of a team.

    Thread 0 leads: it does the pass that `call` tells of. Others help with one pass after the other, and return when
    they are to sleep.
    """

    @kernel
    def take_part(thread: int, doors: int, n_helpers: int, call: int) -> None:
        door = doors + (thread - 1) * DOOR_BYTES
        if thread != 0:
            call = wait_at(door)
        while call != 0:
            part(thread, call)  # the only place: it is long, and becomes part of this kernel
            if thread == 0:
                dismiss(doors, n_helpers)
                call = 0
            else:
                exchange(door, WAITING)
                call = wait_at(door)

    return take_part
