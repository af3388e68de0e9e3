"""The loop: predict, choose, show, read on.

`SamplingLoop` chooses and shows: it is given the logits of the next token and answers with a `Step`. `Generation` also
reads: an iterator over `Step`s, one for each chosen token, that can be left at any time. The text of the steps joined
is `text`; where tokens do not end at character borders, or might begin a stop string, a step's text comes later than
its token.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import EmptyPrompt, SettingError
from nextword.predict.engine import Logits, Session, is_batch_invariant, read
from nextword.sample.draw import check_seed, new_seed, uniform
from nextword.sample.prompt_lookup import PromptLookup
from nextword.sample.sampler import Distribution, Mask, SampledToken, distribute, sample_token
from nextword.sample.settings import Sampling
from nextword.sample.stops import StopScanner

Finish = Literal["stop", "length", "context"]


class Step(NamedTuple):
    """One chosen token, and the text that can be shown now that it is known."""

    token: SampledToken
    text: str

    @property
    def probability(self) -> float:
        """Of the token, as the model gave it."""
        return self.token.probability


class Grammar(Protocol):
    """What a text may be, token by token."""

    def allowed(self) -> Mask:
        """The tokens that may come next, bool [vocab]."""

    def advance(self, id: int) -> bool:
        """The text goes on with `id`; whether nothing can follow."""


class SamplingLoop:
    """A text being written by whoever reads: `take` is given the logits of each next token.

    capacity: how many tokens can be read. grammar: what the text may be, before any filter acts.
    seed: what the draws depend on; the same seed, prompt and settings give the same text.
    choices, text: what is written so far. begins: where the last token's text begins, in characters, what is held back
    counted too.
    odds: what the last token was drawn from. finish_reason: None until it has ended, then "stop" (an end token, a
    stop string or the grammar's end), "length" (max_tokens reached) or "context" (the model's context is full).

    Raises EmptyPrompt or SettingError.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        capacity: int,
        sampling: Sampling,
        max_tokens: int,
        stop: Sequence[str] = (),
        stop_ids: frozenset[int] = frozenset(),
        seed: int | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        if not prompt:
            raise EmptyPrompt("There is nothing to continue: give a prompt of at least one character.")
        if max_tokens < 1:
            raise SettingError(f"max_tokens must be at least 1, not {max_tokens}.")
        self.tokenizer, self.prompt = tokenizer, tuple(prompt)
        self._ids = array("q", prompt)  # and what is generated, as numpy can see it without a copy
        self.seed = new_seed() if seed is None else check_seed(seed)
        self.tokens: list[SampledToken] = []
        self.text = ""
        self.begins = 0
        self.stop_ids = stop_ids
        self.distribution: Distribution | None = None
        self.finish_reason: Finish | None = None
        self._capacity, self._sampling, self._max_tokens = capacity, sampling, max_tokens
        self._grammar = grammar
        self._decoded = 0
        self._n_tokens = tokenizer.vocab_size
        self._scanner, self._decoder = StopScanner(stop), tokenizer.stream()
        for id in prompt:  # the text goes on in the middle of a line, maybe of a character
            self._decoder.push(id)

    def take(self, logits: Logits) -> Step:
        """Draw the next token from its logits [vocab]; not to be called once there is a `finish_reason`."""
        assert self.finish_reason is None
        position = len(self.prompt) + len(self.tokens)
        self.distribution = self._distribute(logits)
        token = sample_token(self.distribution, uniform(self.seed, position), position)
        self.tokens.append(token)
        self._ids.append(token.id)
        step = Step(token, self._show(token.id))
        self.text += step.text
        return step

    def _distribute(self, logits: Logits) -> Distribution:
        allowed = None if self._grammar is None else self._grammar.allowed()
        return distribute(logits, self._sampling, self._ids, len(self.tokens), self._n_tokens, allowed)

    def _show(self, id: int) -> str:
        """The text that the new token allows to show; sets `finish_reason` if it is the last."""
        self.begins = self._decoded
        if id in self.stop_ids:
            self.finish_reason = "stop"
            return self._scanner.push(self._decoder.flush()) + self._scanner.flush()
        text = self._decoder.push(id)
        self._decoded += len(text)
        shown = self._scanner.push(text)
        ended = self._grammar is not None and self._grammar.advance(id)
        if self._scanner.stopped is not None:
            self.finish_reason = "stop"
            return shown
        if ended:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self._max_tokens:
            self.finish_reason = "length"
        elif len(self.prompt) + len(self.tokens) > self._capacity:
            self.finish_reason = "context"
        if self.finish_reason is not None:
            shown += self._scanner.push(self._decoder.flush())
            shown += self._scanner.flush()
        return shown


class Generation(SamplingLoop):
    """A text being written with an engine. Iterate it to its end, or leave it whenever enough is seen.

    seconds_to_first, tokens_per_second: of the work so far; the speed does not count the first token.
    proposed, accepted: tokens guessed from the text itself and read along, and how many of them were then drawn
    (nextword.sample.prompt_lookup); both stay 0 with an engine that is not batch invariant.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop: Sequence[str] = (),
        stop_ids: frozenset[int] = frozenset(),
        seed: int | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            prompt,
            capacity=session.capacity,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            stop_ids=stop_ids,
            seed=seed,
        )
        self.seconds_to_first = self.tokens_per_second = 0.0
        self.proposed = self.accepted = 0
        self._session = session
        self._prompt_lookup = PromptLookup(prompt) if is_batch_invariant(session) else None
        self._ahead: list[tuple[int, Logits]] = []  # tokens read before they were drawn, and the logits after each
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def finish(self) -> Generation:
        """Write to the end; returns itself, so that `generate(...).finish().text` reads well."""
        for _ in self._steps:
            pass
        return self

    def _run(self) -> Iterator[Step]:
        began = time.perf_counter()
        logits = read(self._session, self.prompt)
        while self.finish_reason is None:
            step = self.take(logits)
            self._time(began)
            yield step
            if self.finish_reason is None:
                logits = self._read_on(step.token.id)

    def _read_on(self, id: int) -> Logits:
        """The logits after `id`, the token drawn: read along already, or read now, maybe with guesses behind it."""
        position = len(self.prompt) + len(self.tokens) - 1
        if self._prompt_lookup is None:
            return self._session.feed([id])
        self._prompt_lookup.push(id)
        if self._ahead:
            guess, logits = self._ahead.pop(0)
            if guess == id:
                self.accepted += 1
                return logits
            self._ahead.clear()
            self._session.truncate(position)
        room = min(self._max_tokens - len(self.tokens), self._session.capacity - position) - 1
        guesses = self._prompt_lookup.guess(room)
        if not guesses:
            return self._session.feed([id])
        rows = self._session.feed_all([id, *guesses])
        self.proposed += len(guesses)
        self._ahead = list(zip(guesses, rows[1:], strict=True))
        after: Logits = rows[0]
        return after

    def _time(self, began: float) -> None:
        now = time.perf_counter()
        if len(self.tokens) == 1:
            self.seconds_to_first, self._first = now - began, now
        elif now > self._first:
            self.tokens_per_second = (len(self.tokens) - 1) / (now - self._first)
