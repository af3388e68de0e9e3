"""The texts of one request as they are being written: jobs for the scheduler, chunks of text for the route.

Promises, each with a test: the chunks of a choice joined are the same text wherever it was divided; each token's
logprobs come with the chunk that shows its text, and those of a stop string never come; leaving frees the rows.
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

LEAST = -9999.0  # nats: stands for a logprob of -inf, which JSON cannot say


@dataclass(frozen=True)
class Entry:
    """A token with its log-probability and the alternatives at its place.

    Args:
        id: The token.
        logprob: Natural log-probability, None for the first token of a prompt.
        top: The most probable ids at this place with their log-probabilities, the token's own among them.
        offset: Where the token's text begins, in characters of the choice.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True)
class StreamChunk:
    """The text of one choice that can be shown at once.

    Args:
        index: Of the choice.
        text: What follows the text of the choice's chunks before.
        ids: The tokens drawn since the chunk before.
        entries: The logprobs of the tokens whose text begins in this chunk or before, if they are asked for.
        finish: None while the choice goes on, else "stop" or "length".
    """

    index: int
    text: str
    ids: tuple[int, ...] = ()
    entries: tuple[Entry, ...] = ()
    finish: str | None = None


@dataclass
class TextJob:
    """One text to write.

    Args:
        prompt: The ids that the text follows.
        loop: Draws its tokens, None if only the prompt is wanted.
        top: Number of alternatives at each place, None for no logprobs.
        echo: The prompt's text, with which the choice begins; None for a choice without it.
        again: Whether an earlier text of the request follows the same prompt, which is counted once.
    """

    prompt: Sequence[int]
    loop: SamplingLoop | None
    top: int | None = None
    echo: str | None = None
    again: bool = False


@dataclass
class Usage:
    """The number of tokens that a request took; a prompt that several texts follow counts once.

    Args:
        prompt: Tokens of the prompts.
        cached: Tokens of the prompts that had been read for another text before.
        written: Tokens drawn.
    """

    prompt: int = 0
    cached: int = 0
    written: int = 0

    def to_json(self) -> dict[str, Any]:
        """The `usage` of OpenAI's answers."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Answer:
    """The texts of one request. Made on the event loop; iterate `chunks` inside `with`, which cancels what is left."""

    def __init__(self, scheduler: Scheduler, tokenizer: Tokenizer, texts: Sequence[TextJob]) -> None:
        """Put the texts into the scheduler's queue.

        Args:
            scheduler: Writes them.
            tokenizer: The model's.
            texts: One for each choice.

        Raises:
            Busy: The queue is full.
            Closing: The server is shutting down.
        """
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

    async def chunks(self) -> AsyncIterator[StreamChunk]:
        """Chunks of all choices as they come. Raises the NextwordError that ended one of them too early."""
        while self._left:
            chunk = await self._queue.get()
            if isinstance(chunk, NextwordError):
                raise chunk
            self._left -= chunk.finish is not None
            yield chunk

    def _put(self, chunk: StreamChunk | NextwordError) -> None:
        """Hand over a chunk, from the scheduler's thread to the event loop."""
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, chunk)


@dataclass
class _Listener:
    """Implements nextword.sample.scheduler.Listener for one choice."""

    index: int
    text: TextJob
    tokenizer: Tokenizer
    put: Callable[[StreamChunk | NextwordError], None]
    usage: Usage
    _entries: list[Entry] = field(default_factory=list)  # of tokens whose text is not shown yet
    _shown: int = 0  # characters of the choice

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
        reason = None if finish is None else "stop" if cut else "length"
        self.put(StreamChunk(self.index, step.text, (id,), tuple(ready), reason))

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
