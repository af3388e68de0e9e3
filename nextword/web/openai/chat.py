"""POST /v1/chat/completions of OpenAI's API: answers to a conversation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from nextword.base.types import Json
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.web.openai.collect import Entry, StreamChunk, TextJob
from nextword.web.openai.schemas import ChatRequest
from nextword.web.openai.service import Service
from nextword.web.openai.tool_calls import OPEN, CallReader
from nextword.web.problems import BadRequest

DEEPEST = 50  # levels: of objects and lists within each other, in tools and their calls


def texts_of(service: Service, request: ChatRequest) -> list[TextJob]:
    """The texts to write, `n` answers to the conversation. Raises InputError or TokenizerError."""
    tools = request.offered()
    if service.tokenizer.chat_template is None:
        raise InputError(
            f"The model {service.name!r} has learned no conversations (it has no chat template): ask /v1/completions."
        )
    if tools and not (service.tokenizer.takes_tools and OPEN in service.tokenizer.chat_template):
        raise BadRequest(
            f"The model {service.name!r} has not learned to call tools (its chat template does not tell it how, or in "
            'a form that is not read here): leave tools out or set tool_choice to "none"; for JSON of a certain form '
            "set response_format.",
            "tools",
        )
    messages = [message.plain() for message in request.messages]
    service.check_length(_characters(messages) + _characters(tools))
    ids = service.tokenizer.chat(messages, add_generation_prompt=True, tools=tools)
    service.check_room(ids)
    most = service.scheduler.capacity + 1 - len(ids)  # the last token drawn need not be read
    wanted = next((each for each in (request.max_completion_tokens, request.max_tokens) if each is not None), most)
    top = request.top_logprobs if request.logprobs else None
    return service.texts(request, ids, wanted, top, None, 0)


class ChatShape:
    """Implements nextword.web.openai.respond.Shape."""

    id_prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, request: ChatRequest) -> None:
        self._tokenizer, self._wants_logprobs = tokenizer, request.logprobs
        self._readers = defaultdict[int, CallReader](CallReader) if request.offered() else None

    def opening(self, index: int) -> Json | None:
        """The event that names the role of the speaker."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def stream_choice(self, chunk: StreamChunk) -> Json:
        """A choice in one event of a stream."""
        text, calls, finish = self._read(chunk)
        return {
            "index": chunk.index,
            "delta": {**({"content": text} if text else {}), **({"tool_calls": calls} if calls else {})},
            "logprobs": self._logprobs(chunk.entries),
            "finish_reason": finish,
        }

    def choice(self, chunks: Sequence[StreamChunk]) -> Json:
        """A whole choice, from all its chunks."""
        read = [self._read(chunk) for chunk in chunks]
        text = "".join(text for text, _, _ in read)
        calls = [{key: call[key] for key in ("id", "type", "function")} for _, calls, _ in read for call in calls]
        said = {"content": text or None, "tool_calls": calls} if calls else {"content": text}
        return {
            "index": chunks[0].index,
            "message": {"role": "assistant", **said, "refusal": None},
            "logprobs": self._logprobs([entry for chunk in chunks for entry in chunk.entries]),
            "finish_reason": read[-1][2],
        }

    def _read(self, chunk: StreamChunk) -> tuple[str, list[Json], str | None]:
        """Text, calls and finish reason of a chunk; where tools were offered, chunks must come in their order."""
        if self._readers is None:
            return chunk.text, [], chunk.finish
        reader = self._readers[chunk.index]
        text, calls = reader.push(chunk.text, chunk.finish)
        return text, calls, "tool_calls" if chunk.finish == "stop" and reader.calls else chunk.finish

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


def _characters(value: Any, depth: int = 0) -> int:
    """The number of characters of all strings in a JSON value. Raises BadRequest if it is nested too deeply."""
    if depth > DEEPEST:
        raise BadRequest(f"A tool or a call of one is nested more than {DEEPEST} deep; make it flatter.", "tools")
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _characters(each, depth + 1) for key, each in value.items())
    return sum(_characters(each, depth + 1) for each in value) if isinstance(value, list) else 0
