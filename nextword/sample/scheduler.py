"""Continuous batching: texts join and leave the batch between tokens, and one pass over the weights serves them all.

Promises, each with a test: a text is the same bytes whatever is written beside it; a cancelled text costs no token
more; a common prefix of two texts is read once; more work than the queue holds is refused at once; a close lets
the texts that are being written end, up to a time, and ends the others with Closing.

One thread owns the sessions, here called rows. In a turn it reads one more token in every row that is writing, and
at most TURN_TOKENS tokens of prompts beside them, so that a long prompt does not delay the others for long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from nextword.errors import Busy, Closing, ModelError, NextwordError
from nextword.predict.engine import Engine, Logits, Session, cached_prefix, is_batch_invariant
from nextword.sample.generation import SamplingLoop, Step

TURN_TOKENS = 128  # tokens: of prompts, read in a turn


class Listener(Protocol):
    """What gets the results of a job. It is called on the scheduler's thread, so its methods must be quick."""

    def began(self, cached: int) -> None:
        """The prompt is being read; its first `cached` tokens had been read for another text."""

    def read(self, first: int, logits: Logits) -> None:
        """The logits, float32 [tokens, vocab], after the prompt's tokens from `first` on, of jobs with `scores`."""

    def wrote(self, step: Step) -> None:
        """One more token; the last if the job's loop has a `finish_reason`."""

    def ended(self, error: NextwordError | None) -> None:
        """The job is over: None after one without `loop`, else the error that ended it too early."""


@dataclass(eq=False)
class Job:
    """A prompt to read, and a text to write after it.

    Args:
        prompt: The ids to read.
        listener: Gets the results.
        loop: Draws the text after the prompt; None reads the prompt alone.
        scores: Whether `listener.read` gets the prompt's logits.
        cancelled: Set by `Scheduler.cancel`.
    """

    prompt: Sequence[int]
    listener: Listener
    loop: SamplingLoop | None
    scores: bool = False
    cancelled: bool = False


@dataclass
class Counts:
    """Counters since the scheduler's start.

    Args:
        prompt_tokens: Tokens of prompts that were read.
        cached_tokens: Tokens of prompts that had been read for another text.
        written_tokens: Tokens drawn.
        texts: Texts that were written to their end.
        cancelled: Texts that were cancelled.
        refused: Texts that were refused because the queue was full.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    texts: int = 0
    cancelled: int = 0
    refused: int = 0


@dataclass(eq=False)
class _Row:
    """A session and the job that has it."""

    session: Session
    job: Job | None = None
    unread: Sequence[int] | None = None  # tokens of the prompt; None before the first of them is read
    next: int | None = None  # the token that was drawn last, not read yet
    last_used: float = 0.0  # seconds: on the monotonic clock

    def free(self) -> None:
        self.job = self.unread = self.next = None
        self.last_used = time.monotonic()


@dataclass
class _Shared:
    """The state that other threads share with the scheduler's; the condition's lock guards it."""

    waiting: deque[Job] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closes_at: float | None = None  # seconds: on the monotonic clock; None while the scheduler takes jobs


class Scheduler:
    """Writes the texts of jobs with an engine, several at once."""

    def __init__(self, engine: Engine, *, rows: int = 8, queue: int = 64, context: int | None = None) -> None:
        """Open the sessions and start the scheduler's thread.

        Args:
            engine: Reads the texts.
            rows: Number of texts written at once.
            queue: Number of further texts that may wait.
            context: Tokens that a row has room for, the model's own context if None.

        Raises:
            ContextOverflow: There is no memory for sessions of this length.
        """
        self.counts = Counts()
        self.size, self.queue = rows, queue
        self._engine = engine
        self._rows = [_Row(engine.open_session(context)) for _ in range(rows)]
        self._shared = _Shared()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """The number of tokens that a row has room for."""
        return self._rows[0].session.capacity

    @property
    def running(self) -> int:
        """The number of texts being read or written."""
        return sum(row.job is not None for row in self._rows)

    @property
    def waiting(self) -> int:
        """The number of texts in the queue."""
        return len(self._shared.waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs into the queue, all or none. Raises Busy or Closing."""
        with self._shared.changed:
            if self._shared.closes_at is not None:
                raise Closing("The server is shutting down; ask another, or later.")
            if self.running + len(self._shared.waiting) + len(jobs) > self.size + self.queue:
                self.counts.refused += len(jobs)
                raise Busy(f"All {self.size} rows are writing and the queue is full; try again in a moment.")
            self._shared.waiting.extend(jobs)
            self._shared.changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Write no further token of these jobs."""
        with self._shared.changed:
            for job in jobs:
                job.cancelled = True
            self._shared.changed.notify()

    def close(self, grace: float) -> None:
        """Take no more jobs; those being written have `grace` seconds to end. Returns at once; see `join`."""
        with self._shared.changed:
            if self._shared.closes_at is None:
                self._shared.closes_at = time.monotonic() + grace
            self._shared.changed.notify()

    def join(self, timeout: float | None = None) -> None:
        """Wait until everything has ended after a `close`."""
        self._thread.join(timeout)

    # All below runs on the scheduler's thread.

    def _run(self) -> None:
        while self._admit():
            rows, pieces, budget = [], [], TURN_TOKENS
            for row in self._busy():
                piece = self._piece(row, budget)
                if row.next is None:
                    budget -= len(piece)
                if piece:
                    rows.append(row)
                    pieces.append(piece)
            if rows:
                self._guarded(rows, partial(self._read_on, rows, pieces))

    def _busy(self) -> list[_Row]:
        return [row for row in self._rows if row.job is not None]

    def _guarded(self, rows: Sequence[_Row], act: Callable[[], None]) -> None:
        """Call `act`; if it fails, the texts of these rows end with the error and the others go on."""
        try:
            act()
        except Exception as error:  # a bug must not end the service
            reported = error if isinstance(error, NextwordError) else ModelError(f"Writing failed: {error!r:.200}.")
            for row in rows:
                self._end(row, reported)

    def _admit(self) -> bool:
        """Drop cancelled jobs and give free rows to waiting ones, or wait; False once the scheduler has closed."""
        shared = self._shared
        with shared.changed:
            while True:
                for row in self._busy():
                    if row.job is not None and row.job.cancelled:
                        self.counts.cancelled += 1
                        row.free()
                self.counts.cancelled += sum(job.cancelled for job in shared.waiting)
                shared.waiting = deque(job for job in shared.waiting if not job.cancelled)
                if shared.closes_at is not None:
                    self._hurry()
                    if not self._busy():
                        return False
                while shared.waiting and (free := self._free_row(shared.waiting[0])) is not None:
                    free.job = shared.waiting.popleft()
                if self._busy():
                    return True
                shared.changed.wait()

    def _hurry(self) -> None:
        """End the waiting jobs with Closing, and once the grace period is over the running ones too."""
        closes_at = self._shared.closes_at
        assert closes_at is not None
        closing = Closing("The server is shutting down; ask another, or later.")
        while self._shared.waiting:
            _report_end(self._shared.waiting.popleft(), closing)
        if time.monotonic() >= closes_at:
            for row in self._busy():
                self._end(row, closing)

    def _free_row(self, job: Job) -> _Row | None:
        """The free row whose session holds most of the job's prompt; among equals the least recently used."""
        free = [row for row in self._rows if row.job is None]
        return max(free, key=lambda row: (cached_prefix(row.session.ids, job.prompt), -row.last_used), default=None)

    def _piece(self, row: _Row, budget: int) -> Sequence[int]:
        """The tokens to read in a row now: the one drawn last, or at most `budget` tokens of its prompt."""
        job = row.job
        assert job is not None
        if row.next is not None:
            return [row.next]
        if row.unread is None:
            if budget <= 0 or self._is_being_read(row):
                return []
            cached = 0 if job.scores else self._recall(row, job.prompt)
            row.session.truncate(cached)
            row.unread = job.prompt[cached:]
            self.counts.cached_tokens += cached
            job.listener.began(cached)
        piece, row.unread = row.unread[: max(budget, 0)], row.unread[max(budget, 0) :]
        self.counts.prompt_tokens += len(piece)
        return piece

    def _is_being_read(self, row: _Row) -> bool:
        """Whether another row is reading a prefix of this row's prompt that this row can copy afterwards."""
        job = row.job
        assert job is not None
        if job.scores or not is_batch_invariant(row.session):
            return False
        known = max(cached_prefix(each.session.ids, job.prompt) for each in self._rows)
        reading = (each for each in self._busy() if each.unread is not None and each.next is None)
        return any(each.job is not None and cached_prefix(each.job.prompt, job.prompt) > known for each in reading)

    def _recall(self, row: _Row, prompt: Sequence[int]) -> int:
        """Copy the longest prefix of the prompt that any row has read into this row's session.

        Returns:
            The number of tokens of the prompt that need not be read again.
        """
        if not is_batch_invariant(row.session):  # its logits may depend on what was read at once
            return 0
        best = max(self._rows, key=lambda each: (cached_prefix(each.session.ids, prompt), each is row))
        length = cached_prefix(best.session.ids, prompt)
        if best is not row and hasattr(row.session, "copy_from"):
            row.session.copy_from(best.session, length)
        return min(length, cached_prefix(row.session.ids, prompt))

    def _read_on(self, rows: Sequence[_Row], pieces: Sequence[Sequence[int]]) -> None:
        """Read a piece in each row, and draw the next token of the rows whose prompt is read.

        Listeners are called once all tokens are drawn: there is one interpreter lock, so what they do would delay the
        draws of the other rows, but it overlaps with the next forward pass.
        """
        together = [i for i, row in enumerate(rows) if not _wants_scores(row)]
        after: dict[int, Logits] = {}
        if together:
            logits = self._extend([rows[i].session for i in together], [pieces[i] for i in together])
            after.update(zip(together, logits, strict=True))
        drawn: list[tuple[_Row, Step]] = []
        for i, row in enumerate(rows):
            if i not in after:
                after[i] = self._score(row, pieces[i])
            if not row.unread:
                self._guarded([row], partial(self._draw, row, after[i], drawn))
        for row, step in drawn:
            self._guarded([row], partial(self._pass_on, row, step))

    def _score(self, row: _Row, piece: Sequence[int]) -> Logits:
        """Read a piece of a prompt, report the logits after each token to the listener, and return the last of them."""
        first, logits = len(row.session.ids), row.session.feed_all(piece)
        if row.job is not None:
            self._guarded([row], partial(row.job.listener.read, first, logits))
        last: Logits = logits[-1]
        return last

    def _extend(self, sessions: Sequence[Session], pieces: Sequence[Sequence[int]]) -> Sequence[Logits]:
        """Read a piece in each session; the logits after each piece, float32 [vocab]."""
        if hasattr(self._engine, "feed_each"):
            logits: Sequence[Logits] = self._engine.feed_each(sessions, pieces)
            return logits
        return [session.feed(piece) for session, piece in zip(sessions, pieces, strict=True)]

    def _draw(self, row: _Row, logits: Logits, drawn: list[tuple[_Row, Step]]) -> None:
        """Draw the next token of the row's text and add its step to `drawn`."""
        job = row.job
        if job is None:  # it failed in this turn
            return
        if job.loop is None:
            self._end(row, None)
        elif not job.cancelled:
            drawn.append((row, job.loop.take(logits)))

    def _pass_on(self, row: _Row, step: Step) -> None:
        """Report a drawn token to the listener; the row reads it next, or is free if it was the last."""
        job = row.job
        assert job is not None
        assert job.loop is not None
        self.counts.written_tokens += 1
        job.listener.wrote(step)
        row.next = step.token.id
        if job.loop.finish_reason is not None:
            self.counts.texts += 1
            row.free()

    def _end(self, row: _Row, error: NextwordError | None) -> None:
        if row.job is not None:
            job = row.job
            row.free()
            _report_end(job, error)


def _report_end(job: Job, error: NextwordError | None) -> None:
    with suppress(Exception):  # the listener's event loop may be closed
        job.listener.ended(error)


def _wants_scores(row: _Row) -> bool:
    return row.job is not None and row.job.scores and row.next is None
