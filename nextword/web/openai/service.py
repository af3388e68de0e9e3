"""One model as a service: what every route needs, from a request's words to a text that can be written."""

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

MOST_RECEIPTS = 64  # tokens of a request with `explain`: each costs several readings


class Service:
    """A model, its scheduler, and the lock of whatever else uses the model.

    name: what the model is called. text: a folder that `nextword index` made, for receipts.
    """

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
        self.gpt, self.name, self.text = gpt, name, text
        self.tokenizer = gpt.tokenizer
        self.lock = threading.Lock()
        self.started = int(time.time())
        self.fingerprint = f"nextword-{gpt.hashes()['weights'][:12]}"
        self.scheduler = Scheduler(gpt.engine, rows=rows, queue=queue, context=context)
        self._most_bytes = max(len(self.tokenizer.token_bytes(id)) for id in range(self.tokenizer.vocab_size))

    def check_model(self, name: str | None) -> None:
        """Raises UnknownModel unless it is this service's."""
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
        """Raises ContextOverflow for a prompt that is too long whatever its tokens, without counting them."""
        if characters > self.scheduler.capacity * self._most_bytes:
            raise ContextOverflow(
                f"A prompt of {characters:,} characters is longer than this model's context of "
                f"{self.scheduler.capacity} tokens; shorten it."
            )

    def check_room(self, ids: Sequence[int]) -> None:
        """Raises ContextOverflow."""
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
        """The `n` texts after one prompt; `first` numbers the first of them. Raises InputError."""
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
        """The receipt of a named token, or of the likeliest. Raises InputError."""
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
        """Why `id` came after the prompt and the tokens `before`; slow, and one at a time."""
        assert text.loop is not None
        ids = [*text.prompt, *before]
        with self.lock:
            drawn = self.gpt.receipt(ids, sampling=sampling, seed=text.loop.seed, text=self.text, name=self.name)
            if drawn.chosen.id != id:  # penalties and grammars know more than the ids: tell of the token alone
                drawn = self.gpt.receipt(ids, id, text=self.text, name=self.name)
        return drawn.to_json()
