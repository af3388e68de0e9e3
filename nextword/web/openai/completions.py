"""POST /v1/completions of OpenAI's API: texts that continue prompts."""

from __future__ import annotations

from collections.abc import Sequence

from nextword.base.types import Json
from nextword.encode.tokenizer import Tokenizer
from nextword.web.openai.collect import Entry, StreamChunk, TextJob
from nextword.web.openai.schemas import MOST_CHOICES, CompletionRequest
from nextword.web.openai.service import Service
from nextword.web.problems import BadRequest


def texts_of(service: Service, request: CompletionRequest) -> list[TextJob]:
    """The texts to write, `n` for each prompt. Raises InputError."""
    if request.suffix:
        raise BadRequest("This model cannot write up to a suffix; leave it out.", "suffix")
    if request.best_of is not None and request.best_of != request.n:
        raise BadRequest("best_of must be n: every text that is written is returned.", "best_of")
    prompts = request.prompts()
    if len(prompts) * request.n > MOST_CHOICES:
        raise BadRequest(f"At most {MOST_CHOICES} texts can be asked for at once.", "prompt")
    texts: list[TextJob] = []
    for prompt in prompts:
        ids = service.prompt_ids(prompt)
        echo = None
        if request.echo:
            echo = prompt if isinstance(prompt, str) else service.tokenizer.decode(ids, skip_special=True)
        texts += service.texts(request, ids, request.max_tokens, request.logprobs, echo, len(texts))
    return texts


class CompletionShape:
    """Implements nextword.web.openai.respond.Shape."""

    id_prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, request: CompletionRequest) -> None:
        self._tokenizer, self._wants_logprobs = tokenizer, request.logprobs is not None

    def opening(self, index: int) -> Json | None:
        """No event before the text."""
        return None

    def stream_choice(self, chunk: StreamChunk) -> Json:
        """A choice in one event of a stream."""
        return self.choice([chunk])

    def choice(self, chunks: Sequence[StreamChunk]) -> Json:
        """A whole choice, from all its chunks."""
        return {
            "text": "".join(chunk.text for chunk in chunks),
            "index": chunks[0].index,
            "logprobs": self._logprobs([entry for chunk in chunks for entry in chunk.entries]),
            "finish_reason": chunks[-1].finish,
        }

    def _logprobs(self, entries: Sequence[Entry]) -> Json | None:
        if not self._wants_logprobs:
            return None
        return {
            "tokens": [self._name(entry.id) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                None if entry.logprob is None else {self._name(id): logprob for id, logprob in entry.top}
                for entry in entries
            ],
            "text_offset": [entry.offset for entry in entries],
        }

    def _name(self, id: int) -> str:
        """A token's text; its bytes where they are no whole characters, so that no two tokens have one name."""
        data = self._tokenizer.token_bytes(id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
