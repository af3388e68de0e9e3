"""Autoregressive generation: predict, draw, show, read the drawn token.

`SamplingLoop` draws and shows: it takes the logits of the next token and returns a `Step`. `Generation` also runs the
model: an iterator over `Step`s, one for each drawn token, that can be left at any time. The texts of the steps joined
are `text`; where tokens do not end at character borders, or might begin a stop string, a step's text comes later than
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
    """One drawn token, and the text that can be shown since then."""

    token: SampledToken
    text: str

    @property
    def probability(self) -> float:
        """The token's probability in the model's own distribution."""
        return self.token.probability


class Grammar(Protocol):
    """A constraint on the text, token by token."""

    def allowed(self) -> Mask:
        """The tokens that may come next, bool [vocab]."""

    def advance(self, id: int) -> bool:
        """Add a token to the text. Returns True if nothing can follow."""


class SamplingLoop:
    """The state of a text that is being generated. The caller runs the model and gives `take` the logits.

    Args:
        tokenizer: The model's.
        prompt: Ids that the text continues, at least one.
        capacity: Number of tokens that the caller's session can read.
        sampling: How tokens are drawn.
        max_tokens: The text ends after this number of tokens, at least 1.
        stop: Strings that end the text and are not shown.
        stop_ids: Tokens that end the text.
        seed: Seed of the draws; the same seed, prompt and settings give the same text. None picks one.
        grammar: Constraint on the text, applied before all filters.

    Attributes:
        tokens: The tokens drawn so far.
        text: The text shown so far.
        begins: Where the last token's text begins, in characters from the prompt's end; text that is held back counts.
        distribution: What the last token was drawn from.
        finish_reason: None until the text has ended, then "stop" (an end token, a stop string or the grammar's end),
            "length" (max_tokens reached) or "context" (the model's context is full).

    Raises:
        EmptyPrompt: The prompt has no token.
        SettingError: max_tokens, the seed or a stop string is out of its range.
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
        for id in prompt:  # the text may continue a character whose first bytes end the prompt
            self._decoder.push(id)

    def take(self, logits: Logits) -> Step:
        """Draw the next token from its logits, float32 [vocab]; not to be called once there is a `finish_reason`."""
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
        """The text that can be shown after the new token; sets `finish_reason` if the token is the last."""
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
    """A text that is generated with a session of an engine. Iterate over its steps to the end, or leave at any time.

    Args:
        session: Reads the tokens; those that it already holds of the prompt's beginning are not read again.
        tokenizer: The model's.
        prompt: Ids that the text continues, at least one.
        sampling: How tokens are drawn.
        max_tokens: The text ends after this number of tokens, at least 1.
        stop: Strings that end the text and are not shown.
        stop_ids: Tokens that end the text.
        seed: Seed of the draws; the same seed, prompt and settings give the same text. None picks one.

    Attributes:
        seconds_to_first: Seconds from the first forward pass to the first token.
        tokens_per_second: Speed since the first token.
        proposed: Number of tokens guessed by prompt lookup and read; 0 with an engine that is not batch invariant.
        accepted: Number of these tokens that were then drawn.

    Raises:
        EmptyPrompt: The prompt has no token.
        SettingError: max_tokens, the seed or a stop string is out of its range.
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
        self._ahead: list[tuple[int, Logits]] = []  # tokens read before they are drawn, and the logits after each
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def finish(self) -> Generation:
        """Generate to the end. Returns itself, for `generate(...).finish().text`."""
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
        """The logits after the drawn token: read with earlier guesses already, or read now, with guesses behind it."""
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
