"""Phases, parallel loops and mailboxes: how the threads of a pool share out one pass.

A pass is a sequence of phases, and a phase is a parallel loop over items: the tiles of a matrix, the rows of a batch.
Every thread of the pool runs through all phases of the pass by itself; within a phase each takes the next items that
no thread has taken (`parallel_for`) until all are done. A phase ends when its items are done, whichever thread did
them: a thread that the system has descheduled holds up only the items in its hands, and one that arrives late or not
at all is not missed. Which thread does an item changes no bit of the result.

Each worker has a mailbox, in which it finds the address of the next call. It polls the mailbox for a while before it
sleeps (spin, then sleep): the time between two tokens is shorter than a wake-up. The mailbox's state says who may do
what next,

    PARKED    the worker sleeps or is about to: it must be woken
    POLLING   the worker polls the mailbox
    POSTED    there is a call: the worker may take it by setting RUNNING, or thread 0 withdraw it by setting POLLING
    RUNNING   the worker takes part; the pass is over only when the worker has set POLLING again

so that no thread touches the memory of a pass that is over.
"""

from __future__ import annotations

from typing import Any

from nextword.predict.cpu.kernels.simd import (
    compare_exchange,
    exchange,
    fetch_add,
    kernel,
    load_acquire,
    long_at,
    pause,
    put_long,
    spliced,
    yield_core,
)
from nextword.predict.cpu.layout import (
    CALL_OFFSET,
    MAILBOX_BYTES,
    PARKED,
    PARKED_OFFSET,
    PHASE_BYTES,
    POLLING,
    POSTED,
    RUNNING,
)

_DONE_OFFSET = 64  # bytes: from a phase's counter of items taken to that of items done
_SPIN_POLLS = 4000  # polls: then the core is yielded to other threads
_PARK_POLLS = 8000  # polls: then a worker sleeps; a millisecond or two


@spliced
def parallel_for(counters: int, phase: int, n_items: int, n_threads: int, body: Any, arguments: Any) -> int:
    """Run `body(first, last, *arguments)` over the items 0 to `n_items`, by all threads. Returns the next phase.

    Items are dealt in rounds, three quarters of what is left in each, an equal run of neighbours to every thread
    (factoring, Hummel, Schonberg and Flynn, 1992, who deal a half): long runs first, because sequential reads reach the
    highest bandwidth, single items last, so that all threads end together.

    Args:
        counters: Address of the counters of the pass.
        phase: The number of this phase, from 1; the same in all threads.
        n_items: Items of this phase.
        n_threads: Threads of the pool.
        body: A kernel that does the items `first` to before `last`.
        arguments: Its other arguments, a tuple.
    """
    taken = counters + phase * PHASE_BYTES
    ticket = fetch_add(taken, 1)
    left = n_items >> (2 * (ticket // n_threads))
    while left > 0:
        begin, width, run = n_items - left, left - (left >> 2), ticket % n_threads
        first = begin + -(-run * width // n_threads)
        last = begin + -(-(run + 1) * width // n_threads)
        if first < last:
            body(first, last, *arguments)
            fetch_add(taken + _DONE_OFFSET, last - first)
        ticket = fetch_add(taken, 1)
        left = n_items >> (2 * (ticket // n_threads))
    spin_until(taken + _DONE_OFFSET, n_items)
    return phase + 1


@kernel
def back_off(polls: int) -> int:
    """Back off while spinning: pause for the first 4,000 polls, then yield the core to the OS. Returns `polls + 1`."""
    if polls < _SPIN_POLLS:
        pause()
    else:
        yield_core()
    return polls + 1


@kernel
def spin_until(counter: int, value: int) -> None:
    """Wait until the counter at the address `counter` has reached `value`."""
    polls = 0
    while load_acquire(counter) < value:
        polls = back_off(polls)


@kernel
def call_workers(mailboxes: int, n_workers: int, call: int) -> None:
    """Post a call in every mailbox, and note there whether its worker was parked, and so must be woken.

    Args:
        mailboxes: Address of the first mailbox.
        n_workers: Mailboxes, MAILBOX_BYTES apart.
        call: Address of the packed struct of the pass.
    """
    for mailbox in range(mailboxes, mailboxes + n_workers * MAILBOX_BYTES, MAILBOX_BYTES):
        put_long(mailbox + CALL_OFFSET, call)
        put_long(mailbox + PARKED_OFFSET, exchange(mailbox, POSTED) == PARKED)


@kernel
def join_workers(mailboxes: int, n_workers: int) -> None:
    """Withdraw the call from the workers that have not taken it, and wait for those that have.

    mailboxes: address of the first of `n_workers` mailboxes.
    """
    for mailbox in range(mailboxes, mailboxes + n_workers * MAILBOX_BYTES, MAILBOX_BYTES):
        if not compare_exchange(mailbox, POSTED, POLLING):
            polls = 0
            while load_acquire(mailbox) == RUNNING:
                polls = back_off(polls)


@kernel
def await_call(mailbox: int) -> int:
    """Poll the mailbox at this address, and take the call that is posted in it. Returns its address; 0: to sleep."""
    compare_exchange(mailbox, PARKED, POLLING)
    polls = 0
    while True:
        if load_acquire(mailbox) == POSTED and compare_exchange(mailbox, POSTED, RUNNING):
            return long_at(mailbox + CALL_OFFSET)
        if polls >= _PARK_POLLS and compare_exchange(mailbox, POLLING, PARKED):
            return 0
        polls = back_off(polls)


def run_thread_of(run_pass: Any) -> Any:
    """The kernel `run_thread` of `threads.Kernels`, for passes that `run_pass(thread, call)` runs.

    run_pass: a `spliced` function that all threads of a pool run at once; call: address of the packed struct of a pass.
    """

    @kernel
    def run_thread(thread: int, mailboxes: int, n_workers: int, call: int) -> None:
        """Run passes as one thread of a pool: thread 0 the one of `call`, a worker pass after pass until it parks.

        Args:
            thread: 0, or the number of the worker from 1.
            mailboxes: Address of the first mailbox.
            n_workers: Mailboxes, MAILBOX_BYTES apart.
            call: Address of the packed struct of the pass, for thread 0; workers find theirs in their mailbox.
        """
        mailbox = mailboxes + (thread - 1) * MAILBOX_BYTES
        if thread != 0:
            call = await_call(mailbox)
        while call != 0:
            run_pass(thread, call)  # called here only: its code, which is long, becomes part of this kernel
            if thread == 0:
                join_workers(mailboxes, n_workers)
                call = 0
            else:
                exchange(mailbox, POLLING)
                call = await_call(mailbox)

    return run_thread
