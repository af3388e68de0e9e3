"""One model as a service: prompts to ids, requests to texts for the scheduler, receipts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nextword.api import GPT
from nextword.errors import ContextOverflow, InputError
from nextword.sample.generation import SamplingLoop
from nextword.sample.grammar import Grammars
from nextword.sample.scheduler import Scheduler
from nextword.sample.settings import Sampling
from nextword.web.openai.collect import TextJob
from nextword.web.openai.schemas import ExplainRequest, GenerationRequest
from nextword.web.problems import UnknownModel

MOST_RECEIPTS = 64  # tokens: of a request with `explain`, each of which costs several forward passes


class Service:
    """A model, its scheduler, and the lock that is held while anything but the scheduler uses the model."""

    def __init__(
        self,
        gpt: GPT,
        name: str,
        *,
        rows: int = 8,
        queue: int = 64,
        context: int | None = None,
        text: Path | None = None,
    ) -> None:
        """Open the model's engine and start its scheduler.

        Args:
            gpt: The model.
            name: What clients call the model.
            rows: Number of texts written at once.
            queue: Number of further texts that may wait.
            context: Tokens that each text has room for, the model's own context if None.
            text: A folder that `nextword index` made, for receipts; None: the model's own text, if it has one.

        Raises:
            ContextOverflow: There is no memory for texts of this length.
        """
        self.gpt, self.name, self.text = gpt, name, text
        self.tokenizer = gpt.tokenizer
        self.lock = threading.Lock()
        self.started = int(time.time())
        self.fingerprint = f"nextword-{gpt.hashes()['weights'][:12]}"
        self.scheduler = Scheduler(gpt.engine, rows=rows, queue=queue, context=context)
        self._most_bytes = max(len(self.tokenizer.token_bytes(id)) for id in range(self.tokenizer.vocab_size))

    def check_model(self, name: str | None) -> None:
        """Check the model that a request names. Raises UnknownModel unless it is this service's, or None."""
        if name is not None and name != self.name:
            raise UnknownModel(f"There is no model {name[:100]!r} here, only {self.name!r}.")

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a prompt. Raises EmptyPrompt, ContextOverflow or UnknownToken."""
        if isinstance(prompt, str):
            self.check_length(len(prompt))
            ids = self.tokenizer.encode_prompt(prompt)
        else:
            ids = list(prompt)
            if not ids:
                raise InputError("There is nothing to continue: give a prompt.")
            self.tokenizer.decode_bytes(ids)
        self.check_room(ids)
        return ids

    def check_length(self, characters: int) -> None:
        """Check, without encoding it, that a prompt could fit into the context. Raises ContextOverflow."""
        if characters > self.scheduler.capacity * self._most_bytes:
            raise ContextOverflow(
                f"A prompt of {characters:,} characters is longer than this model's context of "
                f"{self.scheduler.capacity} tokens; shorten it."
            )

    def check_room(self, ids: Sequence[int]) -> None:
        """Check that a prompt fits into the context. Raises ContextOverflow."""
        if len(ids) > self.scheduler.capacity:
            raise ContextOverflow(
                f"This model's context is {self.scheduler.capacity} tokens, but the prompt has {len(ids)}; shorten it."
            )

    def texts(
        self,
        request: GenerationRequest,
        ids: Sequence[int],
        max_tokens: int,
        top: int | None,
        echo: str | None,
        first: int,
    ) -> list[TextJob]:
        """The `n` texts after one prompt.

        Args:
            request: Sampling settings, stops, seed, response format and `n`.
            ids: The prompt's tokens.
            max_tokens: Number of tokens to draw at most; 0 only reads the prompt.
            top: Number of alternatives at each place, None for no logprobs.
            echo: The prompt's text, if the choices are to begin with it.
            first: Index of the first of these choices among all of the request.

        Raises:
            InputError: The settings cannot be used, or receipts of too many tokens are asked for.
        """
        sampling, schema = request.sampling(), request.response_format.schema_to_follow()
        if request.explain and max_tokens > MOST_RECEIPTS:
            raise InputError(f"With explain at most {MOST_RECEIPTS} tokens can be asked for at once; set max_tokens.")
        texts = []
        for choice in range(first, first + request.n):
            loop = None
            if max_tokens:
                loop = SamplingLoop(
                    self.tokenizer,
                    ids,
                    capacity=self.scheduler.capacity,
                    sampling=sampling,
                    max_tokens=max_tokens,
                    stop=request.stops(),
                    stop_ids=self.gpt.stop_ids,
                    seed=request.seed_of(choice),
                    grammar=None if schema is None else self._grammars.json(schema),
                )
            texts.append(TextJob(ids, loop, top, echo, again=choice > first))
        return texts

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.gpt.architecture.vocab, self.gpt.stop_ids)

    def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """The receipt of the named token, or of the most probable one. Raises InputError."""
        ids = self.prompt_ids(request.prompt)
        with self.lock:
            receipt = self.gpt.receipt(
                ids,
                request.token,
                request.contrast,
                count=request.count,
                granularity=request.granularity,
                ablation=request.ablation,
                text=self.text,
                name=self.name,
            )
        return receipt.to_json()

    def receipt(self, text: TextJob, before: Sequence[int], id: int, sampling: Sampling) -> dict[str, Any]:
        """The receipt of a drawn token. It takes several forward passes, and one is made at a time.

        Args:
            text: The text that the token is part of.
            before: The tokens drawn before.
            id: The token.
            sampling: The settings that it was drawn with.
        """
        assert text.loop is not None
        ids = [*text.prompt, *before]
        with self.lock:
            drawn = self.gpt.receipt(ids, sampling=sampling, seed=text.loop.seed, text=self.text, name=self.name)
            if drawn.chosen.id != id:  # drawn under a grammar, or penalties of generated tokens: explain it as named
                drawn = self.gpt.receipt(ids, id, text=self.text, name=self.name)
        return drawn.to_json()
