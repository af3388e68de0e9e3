"""From parts to an HTTP answer, at once or as server-sent events; the same for completions and chat.

Promises, each with a test: a stream is one id, one `finish_reason` per index, the usage last if it was asked for, and
[DONE]; whoever leaves takes their rows with them within a token.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from nextword.base.types import Json
from nextword.errors import NextwordError
from nextword.web import problems
from nextword.web.openai.collect import Answer, StreamChunk, TextJob
from nextword.web.openai.schemas import GenerationRequest
from nextword.web.openai.service import Service

_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))  # made once: there is an event for each token


class Shape(Protocol):
    """How one kind of answer is written down."""

    prefix: str  # of ids
    whole: str  # the object's name
    chunk: str  # and that of a piece of it

    def opening(self, index: int) -> Json | None:
        """What a choice begins with in a stream."""

    def piece(self, part: StreamChunk) -> Json:
        """A choice in a stream."""

    def choice(self, parts: Sequence[StreamChunk]) -> Json:
        """A whole choice."""


async def respond(
    http: Request, service: Service, request: GenerationRequest, texts: list[TextJob], shape: Shape
) -> Response:
    """Write the texts and answer with them. Raises Busy, Closing or what ends a text too early."""
    reply = _Reply(service, request, texts, shape)
    if request.stream:
        return _Events(reply)
    with reply.answer:
        work = asyncio.ensure_future(reply.at_once())
        gone = asyncio.ensure_future(_left(http.receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(work.result()) if work.done() else Response(status_code=499)
        finally:
            work.cancel()
            gone.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Events(Response):
    """A stream of events; what is left of its answer is cancelled however it ends.

    Sent without starlette's StreamingResponse: between two tokens every layer costs.
    """

    def __init__(self, reply: _Reply) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        with self._reply.answer:
            gone = asyncio.ensure_future(_left(receive))
            work = asyncio.ensure_future(self._send(send))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            finally:
                work.cancel()
                gone.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._reply.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Reply:
    def __init__(self, service: Service, request: GenerationRequest, texts: list[TextJob], shape: Shape) -> None:
        self._service, self._request, self._texts, self._shape = service, request, texts, shape
        self._drawn: list[list[int]] = [[] for _ in texts]
        self._head = {"id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time())}
        self._model = {"model": service.name, "system_fingerprint": service.fingerprint}
        self.answer = Answer(service.scheduler, service.tokenizer, texts)

    async def at_once(self) -> Json:
        """The whole answer."""
        parts: list[list[StreamChunk]] = [[] for _ in self._texts]
        receipts: list[list[Json]] = [[] for _ in self._texts]
        async for part in self.answer.parts():
            parts[part.index].append(part)
            receipts[part.index] += await self._receipts(part)
        choices = [self._shape.choice(each) for each in parts]
        if self._request.explain:
            choices = [{**choice, "receipts": each} for choice, each in zip(choices, receipts, strict=True)]
        head = {**self._head, "object": self._shape.whole, **self._model}
        return {**head, "choices": choices, "usage": self.answer.usage.to_json()}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer bit by bit, as lines of server-sent events."""
        usage = {"usage": None} if self._request.stream_options.include_usage else {}
        head = {**self._head, "object": self._shape.chunk, **self._model}

        def chunk(choice: Json) -> bytes:
            return _event({**head, "choices": [choice], **usage})

        for index in range(len(self._texts)):
            if (opening := self._shape.opening(index)) is not None:
                yield chunk(opening)
        try:
            async for part in self.answer.parts():
                receipts = {"receipts": await self._receipts(part)} if self._request.explain else {}
                if part.text or part.entries or part.finish or receipts:
                    yield chunk({**self._shape.piece(part), **receipts})
        except NextwordError as error:
            yield _event(problems.body_of(error))
            return
        if usage:
            yield _event({**head, "choices": [], "usage": self.answer.usage.to_json()})
        yield b"data: [DONE]\n\n"

    async def _receipts(self, part: StreamChunk) -> list[Json]:
        """One for each token of the part, if they are asked for."""
        if not self._request.explain:
            return []
        text, before, receipts = self._texts[part.index], self._drawn[part.index], []
        for id in part.ids:
            made = await run_in_threadpool(self._service.receipt, text, list(before), id, self._request.sampling())
            receipts.append(made)
            before.append(id)
        return receipts


def _event(value: Json) -> bytes:
    return b"data: %s\n\n" % _JSON.encode(value).encode()
