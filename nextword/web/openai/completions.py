"""/v1/completions: text after text, as OpenAI's clients know it."""

from __future__ import annotations

from collections.abc import Sequence

from nextword.base.types import Json
from nextword.encode.tokenizer import Tokenizer
from nextword.web.openai.collect import Entry, StreamChunk, TextJob
from nextword.web.openai.schemas import MOST_CHOICES, CompletionRequest
from nextword.web.openai.service import Service
from nextword.web.problems import BadRequest


def texts_of(service: Service, request: CompletionRequest) -> list[TextJob]:
    """What is to be written, `n` for each prompt. Raises InputError."""
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

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, request: CompletionRequest) -> None:
        self._tokenizer, self._wants_logprobs = tokenizer, request.logprobs is not None

    def opening(self, index: int) -> Json | None:
        """Nothing."""
        return None

    def piece(self, part: StreamChunk) -> Json:
        """A choice in a stream."""
        return self.choice([part])

    def choice(self, parts: Sequence[StreamChunk]) -> Json:
        """A whole choice."""
        return {
            "text": "".join(part.text for part in parts),
            "index": parts[0].index,
            "logprobs": self._logprobs([e for part in parts for e in part.entries]) if self._wants_logprobs else None,
            "finish_reason": parts[-1].finish,
        }

    def _logprobs(self, entries: Sequence[Entry]) -> Json:
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
        """A token's text; where it is no whole characters, its bytes, so that different tokens have different names."""
        data = self._tokenizer.token_bytes(id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
