"""Many texts at once: they join and leave between tokens, and the weights are read once for all of them.

Promises, each with a test: a text is the same bytes whatever is written beside it; a cancelled text costs no token
more; what two texts begin with alike is read once; more work than the queue holds is refused at once; a close lets
what is being written end, up to a time, and tells the rest.

One thread owns the readings, here called rows. In a turn it reads one more token in every row that is writing, and
at most CHUNK tokens of prompts beside them, so that a long prompt does not silence the others for long.
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

CHUNK = 128  # tokens of prompts read in a turn


class Listener(Protocol):
    """Who asked for a text; called on the scheduler's thread, and so to be quick."""

    def began(self, cached: int) -> None:
        """The prompt is being read; its first `cached` tokens were read for another text."""

    def read(self, first: int, logits: Logits) -> None:
        """Logits [tokens, vocab] after the prompt's tokens from `first` on; told only of jobs with `scores`."""

    def wrote(self, step: Step) -> None:
        """One more token; the last if the writing has a `finish_reason`."""

    def ended(self, error: NextwordError | None) -> None:
        """Nothing follows: None after a job without `loop`, else why there is no more."""


@dataclass(eq=False)
class Job:
    """A prompt to read, and a text to write after it. scores: `listener.read` wants the prompt's logits."""

    prompt: Sequence[int]
    listener: Listener
    loop: SamplingLoop | None
    scores: bool = False
    cancelled: bool = False


@dataclass
class Counts:
    """Since the start, in tokens and texts."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    texts: int = 0
    cancelled: int = 0
    refused: int = 0


@dataclass(eq=False)
class _Row:
    session: Session
    job: Job | None = None
    unread: Sequence[int] | None = None  # of the prompt; None before its turn to be read has come
    next: int | None = None  # drawn and not read yet
    last_used: float = 0.0

    def free(self) -> None:
        self.job = self.unread = self.next = None
        self.last_used = time.monotonic()


@dataclass
class _Door:
    """What other threads touch; the condition guards it."""

    waiting: deque[Job] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closes_at: float | None = None


class Scheduler:
    """Writes the texts of jobs with an engine, `rows` at once; `queue` more may wait."""

    def __init__(self, engine: Engine, *, rows: int = 8, queue: int = 64, context: int | None = None) -> None:
        """context: tokens that a row has room for, the model's own if None. Raises ContextOverflow without memory."""
        self.counts = Counts()
        self.size, self.queue = rows, queue
        self._engine = engine
        self._rows = [_Row(engine.open_session(context)) for _ in range(rows)]
        self._door = _Door()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """Tokens that a row has room for."""
        return self._rows[0].session.capacity

    @property
    def running(self) -> int:
        """Texts being read or written."""
        return sum(row.job is not None for row in self._rows)

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._door.waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs into the queue, all or none. Raises Busy or Closing."""
        with self._door.changed:
            if self._door.closes_at is not None:
                raise Closing("The server is shutting down; ask another, or later.")
            if self.running + len(self._door.waiting) + len(jobs) > self.size + self.queue:
                self.counts.refused += len(jobs)
                raise Busy(f"All {self.size} rows are writing and the queue is full; try again in a moment.")
            self._door.waiting.extend(jobs)
            self._door.changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Write no further token of these."""
        with self._door.changed:
            for job in jobs:
                job.cancelled = True
            self._door.changed.notify()

    def close(self, grace: float) -> None:
        """Take no more jobs; those being written have `grace` seconds to end. Returns at once; see `join`."""
        with self._door.changed:
            if self._door.closes_at is None:
                self._door.closes_at = time.monotonic() + grace
            self._door.changed.notify()

    def join(self, timeout: float | None = None) -> None:
        """Wait until everything has ended after a `close`."""
        self._thread.join(timeout)

    # All below runs on the scheduler's thread.

    def _run(self) -> None:
        while self._admit():
            rows, pieces, budget = [], [], CHUNK
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
        """Where an act fails, the texts of these rows end and the others go on."""
        try:
            act()
        except Exception as error:  # a bug must not end the service
            told = error if isinstance(error, NextwordError) else ModelError(f"Writing failed: {error!r:.200}.")
            for row in rows:
                self._end(row, told)

    def _admit(self) -> bool:
        """Drop what was cancelled, give free rows to those who wait; False when all is over."""
        door = self._door
        with door.changed:
            while True:
                for row in self._busy():
                    if row.job is not None and row.job.cancelled:
                        self.counts.cancelled += 1
                        row.free()
                self.counts.cancelled += sum(job.cancelled for job in door.waiting)
                door.waiting = deque(job for job in door.waiting if not job.cancelled)
                if door.closes_at is not None:
                    self._hurry()
                    if not self._busy():
                        return False
                while door.waiting and (free := self._free_row(door.waiting[0])) is not None:
                    free.job = door.waiting.popleft()
                if self._busy():
                    return True
                door.changed.wait()

    def _hurry(self) -> None:
        """What waits is told that it will not be written; what is being written too once its time is over."""
        closes_at = self._door.closes_at
        assert closes_at is not None
        closing = Closing("The server is shutting down; ask another, or later.")
        while self._door.waiting:
            _tell(self._door.waiting.popleft(), closing)
        if time.monotonic() >= closes_at:
            for row in self._busy():
                self._end(row, closing)

    def _free_row(self, job: Job) -> _Row | None:
        """The free row that holds most of the job's prompt already; among equals the one unused for longest."""
        free = [row for row in self._rows if row.job is None]
        return max(free, key=lambda row: (cached_prefix(row.session.ids, job.prompt), -row.last_used), default=None)

    def _piece(self, row: _Row, budget: int) -> Sequence[int]:
        """What is to be read in a row now: the token drawn last, or at most `budget` tokens of its prompt."""
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
        """Whether another row reads what this one could then copy."""
        job = row.job
        assert job is not None
        if job.scores or not is_batch_invariant(row.session):
            return False
        known = max(cached_prefix(each.session.ids, job.prompt) for each in self._rows)
        session = (each for each in self._busy() if each.unread is not None and each.next is None)
        return any(each.job is not None and cached_prefix(each.job.prompt, job.prompt) > known for each in session)

    def _recall(self, row: _Row, prompt: Sequence[int]) -> int:
        """Make the row begin as the prompt does, as far as any row has read that; how many tokens that is.

        The last token is always read anew: its logits are wanted.
        """
        if not is_batch_invariant(row.session):  # reading it again would not give the same bits
            return 0
        best = max(self._rows, key=lambda each: (cached_prefix(each.session.ids, prompt), each is row))
        length = cached_prefix(best.session.ids, prompt)
        if best is not row and hasattr(row.session, "copy_from"):
            row.session.copy_from(best.session, length)
        return min(length, cached_prefix(row.session.ids, prompt))

    def _read_on(self, rows: Sequence[_Row], pieces: Sequence[Sequence[int]]) -> None:
        """Read a piece in each row; draw where there is nothing more to read.

        Who asked is told when all are drawn: what they do with it would hold up the next draw (there is one
        interpreter lock), but not the next pass.
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
        """Read a piece of a prompt and tell the logits on the way; the last of them."""
        first, logits = len(row.session.ids), row.session.feed_all(piece)
        if row.job is not None:
            self._guarded([row], partial(row.job.listener.read, first, logits))
        last: Logits = logits[-1]
        return last

    def _extend(self, sessions: Sequence[Session], pieces: Sequence[Sequence[int]]) -> Sequence[Logits]:
        """The logits after each piece."""
        if hasattr(self._engine, "feed_each"):
            logits: Sequence[Logits] = self._engine.feed_each(sessions, pieces)
            return logits
        return [session.feed(piece) for session, piece in zip(sessions, pieces, strict=True)]

    def _draw(self, row: _Row, logits: Logits, drawn: list[tuple[_Row, Step]]) -> None:
        """The next token of the row's text, added to `drawn`."""
        job = row.job
        if job is None:  # it failed in this turn
            return
        if job.loop is None:
            self._end(row, None)
        elif not job.cancelled:
            drawn.append((row, job.loop.take(logits)))

    def _pass_on(self, row: _Row, step: Step) -> None:
        """Tell who asked of a drawn token, and read it next, or free the row after the last."""
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
            _tell(job, error)


def _tell(job: Job, error: NextwordError | None) -> None:
    with suppress(Exception):  # who asked may be gone
        job.listener.ended(error)


def _wants_scores(row: _Row) -> bool:
    return row.job is not None and row.job.scores and row.next is None
