"""The texts of one request as they are being written: jobs on the scheduler's side, parts on the asker's.

Promises, each with a test: the parts of a choice joined are the same text however they were cut; each token's
logprobs come with the part that shows its text, and those of a stop string never come; leaving frees the rows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import NextwordError
from nextword.predict.engine import Logits
from nextword.predict.score import log_softmax
from nextword.sample.generation import SamplingLoop, Step
from nextword.sample.scheduler import Job, Scheduler

LEAST = -9999.0  # a logprob where JSON has no infinity


@dataclass(frozen=True)
class Entry:
    """A token with its logprob, None for the first of a prompt, and the likeliest ones in its place, itself included.

    offset: where its text begins, in characters of the choice.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True)
class StreamChunk:
    """What came of choice `index`. finish: None while it goes on, else "stop" or "length". ids: tokens drawn."""

    index: int
    text: str
    ids: tuple[int, ...] = ()
    entries: tuple[Entry, ...] = ()
    finish: str | None = None


@dataclass
class TextJob:
    """One text to write: what it follows, and what is wanted. top: how many alternatives, None for no logprobs."""

    prompt: Sequence[int]
    loop: SamplingLoop | None
    top: int | None = None
    echo: str | None = None  # the prompt's text, to be told as part of the choice
    again: bool = False  # another text after a prompt that is counted already


@dataclass
class Usage:
    """In tokens; a prompt counts once, however many texts follow it."""

    prompt: int = 0
    cached: int = 0
    written: int = 0

    def to_json(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Answer:
    """The texts of one request. Made on the event loop; iterate `parts` inside `with`, which cancels what is left."""

    def __init__(self, scheduler: Scheduler, tokenizer: Tokenizer, texts: Sequence[TextJob]) -> None:
        """Raises Busy or Closing."""
        self.usage = Usage()
        self._scheduler = scheduler
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[StreamChunk | NextwordError]()
        self._left = len(texts)
        listeners = [_Listener(i, text, tokenizer, self._put, self.usage) for i, text in enumerate(texts)]
        self._jobs = [
            Job(text.prompt, listener, text.loop, scores=text.echo is not None and text.top is not None)
            for text, listener in zip(texts, listeners, strict=True)
        ]
        scheduler.submit(self._jobs)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._left:
            self._scheduler.cancel(self._jobs)

    async def parts(self) -> AsyncIterator[StreamChunk]:
        """Parts of all choices as they come. Raises what ended one of them too early."""
        while self._left:
            part = await self._queue.get()
            if isinstance(part, NextwordError):
                raise part
            self._left -= part.finish is not None
            yield part

    def _put(self, part: StreamChunk | NextwordError) -> None:
        """From the scheduler's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._queue.put_nowait, part)


@dataclass
class _Listener:
    """Implements nextword.sample.scheduler.Listener for one choice."""

    index: int
    text: TextJob
    tokenizer: Tokenizer
    put: Callable[[StreamChunk | NextwordError], None]
    usage: Usage
    _entries: list[Entry] = field(default_factory=list)  # whose text is not shown yet
    _shown: int = 0

    def began(self, cached: int) -> None:
        if not self.text.again:
            self.usage.prompt += len(self.text.prompt)
            self.usage.cached += cached
        if self.text.echo is not None:
            self._shown = len(self.text.echo)
            if self.text.top is None:
                self.put(StreamChunk(self.index, self.text.echo))

    def read(self, first: int, logits: Logits) -> None:
        top, prompt = self.text.top, self.text.prompt
        assert top is not None
        if first == 0:
            self._entries.append(Entry(prompt[0], None, (), 0))
        for id, row in zip(prompt[first + 1 :], logits, strict=False):
            self._entries.append(self._entry(id, log_softmax(row), top, 0))
        if len(self._entries) == len(prompt):
            self._echo()

    def _echo(self) -> None:
        stream, offset, placed = self.tokenizer.stream(skip_special=True), 0, []
        for entry in self._entries:
            placed.append(Entry(entry.id, entry.logprob, entry.top, offset))
            offset += len(stream.push(entry.id))
        self._entries = []
        self.put(StreamChunk(self.index, self.text.echo or "", entries=tuple(placed)))

    def wrote(self, step: Step) -> None:
        loop, id = self.text.loop, step.token.id
        assert loop is not None
        assert loop.distribution is not None
        self.usage.written += 1
        self._shown += len(step.text)
        finish = loop.finish_reason
        if self.text.top is not None and not (finish == "stop" and id in loop.stop_ids):
            logprobs = log_softmax(loop.distribution.logits)
            self._entries.append(self._entry(id, logprobs, self.text.top, loop.begins + len(self.text.echo or "")))
        cut = finish == "stop"
        ready = [entry for entry in self._entries if entry.offset < self._shown or (finish is not None and not cut)]
        self._entries = self._entries[len(ready) :]
        payload = None if finish is None else "stop" if cut else "length"
        self.put(StreamChunk(self.index, step.text, (id,), tuple(ready), payload))

    def ended(self, error: NextwordError | None) -> None:
        self.put(error or StreamChunk(self.index, "", finish="length"))

    def _entry(self, id: int, logprobs: Any, top: int, offset: int) -> Entry:
        count = min(top, self.tokenizer.vocab_size)
        known = logprobs[: self.tokenizer.vocab_size]
        best = np.argpartition(-known, count - 1)[:count] if count else np.zeros(0, np.int64)
        ids = sorted(map(int, best), key=lambda each: (-known[each], each))
        if count and id not in ids:
            ids.append(id)
        return Entry(id, _number(logprobs[id]), tuple((each, _number(logprobs[each])) for each in ids), offset)


def _number(logprob: float) -> float:
    return max(float(logprob), LEAST) if not math.isnan(logprob) else LEAST
