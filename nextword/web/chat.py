"""/v1/chat/completions: an answer to a conversation, as OpenAI's clients know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.web.answers import Entry, Part, Text
from nextword.web.problems import BadRequest
from nextword.web.schemas import ChatAsked
from nextword.web.service import Service

Json = dict[str, Any]


def texts_of(service: Service, asked: ChatAsked) -> list[Text]:
    """What is to be written, `n` answers. Raises InputError or TokenizerError."""
    if asked.may_call():
        raise BadRequest(
            'This server writes text and calls no tools: leave tools out or set tool_choice to "none"; for JSON of a '
            "certain form set response_format.",
            "tools",
        )
    if service.tokenizer.chat_template is None:
        raise InputError(
            f"The model {service.name!r} has learned no conversations (it has no chat template): ask /v1/completions."
        )
    messages = [message.plain() for message in asked.messages]
    service.check_length(sum(len(message["content"]) for message in messages))
    ids = service.tokenizer.chat(messages, add_generation_prompt=True)
    service.check_room(ids)
    most = service.scheduler.capacity + 1 - len(ids)  # the last token drawn need not be read
    wanted = next((each for each in (asked.max_completion_tokens, asked.max_tokens) if each is not None), most)
    top = asked.top_logprobs if asked.logprobs else None
    return service.texts(asked, ids, wanted, top, None, 0)


class ChatShape:
    """Implements nextword.web.respond.Shape."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, asked: ChatAsked) -> None:
        self._tokenizer, self._wants_logprobs = tokenizer, asked.logprobs

    def opening(self, index: int) -> Json | None:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, part: Part) -> Json:
        """A choice in a stream."""
        return {
            "index": part.index,
            "delta": {"content": part.text} if part.text else {},
            "logprobs": self._logprobs(part.entries),
            "finish_reason": part.finish,
        }

    def choice(self, parts: Sequence[Part]) -> Json:
        """A whole choice."""
        text = "".join(part.text for part in parts)
        return {
            "index": parts[0].index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs([entry for part in parts for entry in part.entries]),
            "finish_reason": parts[-1].finish,
        }

    def _logprobs(self, entries: Sequence[Entry]) -> Json | None:
        if not self._wants_logprobs:
            return None
        tokens = []
        for entry in entries:
            assert entry.logprob is not None
            top = [self._token(id, logprob) for id, logprob in entry.top]
            tokens.append({**self._token(entry.id, entry.logprob), "top_logprobs": top})
        return {"content": tokens, "refusal": None}

    def _token(self, id: int, logprob: float) -> Json:
        data = self._tokenizer.token_bytes(id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
