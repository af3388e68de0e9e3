"""The other side: a server of OpenAI's API, nextword's own or any other, used as an opened model is.

    for step in Server("http://127.0.0.1:8000").generate("Once upon a time", {"temperature": 0.5}):
        print(step.text, end="")

Settings that are not given are the server's. Nothing of a model is needed here, nor much of nextword.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from nextword.errors import EmptyPrompt, InputError, ServerError
from nextword.sample.draw import check_seed, new_seed

_PATIENCE = 600  # seconds without a sign of life

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """What came at once: mostly one token. probability: of its first token, 1 if the server does not say."""

    text: str
    probability: float


class RemoteGeneration:
    """A text being written elsewhere; iterate it to its end, or leave it, which ends it there too.

    text, finish_reason, seed, tokens_per_second: as nextword.sample.generation.Generation has them.
    """

    def __init__(self, server: Server, path: str, body: dict[str, Any], seed: int | None) -> None:
        self.seed = new_seed() if seed is None else check_seed(seed)
        self.pieces: list[Piece] = []
        self.finish_reason: str | None = None
        self.tokens_per_second = 0.0
        self._events = server.events(path, {**body, "seed": self.seed, "stream": True})

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(piece.text for piece in self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        began = None
        with closing(self._events):
            for event in self._events:
                for choice in event.get("choices", [])[:1]:
                    self.finish_reason = choice.get("finish_reason") or self.finish_reason
                    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    if not text:
                        continue
                    self.pieces.append(Piece(text, _probability(choice.get("logprobs"))))
                    began = began or time.perf_counter()
                    if (passed := time.perf_counter() - began) > 0:
                        self.tokens_per_second = (len(self.pieces) - 1) / passed
                    yield self.pieces[-1]


class RemoteConversation:
    """Messages back and forth with a model elsewhere."""

    def __init__(self, server: Server) -> None:
        self.messages: list[dict[str, str]] = []
        self._server = server
        self._answer: RemoteGeneration | None = None

    def say(
        self, text: str, *, given: Settings | None = None, max_tokens: int = 500, seed: int | None = None
    ) -> RemoteGeneration:
        """Add what the user says; the answer being written joins the messages with the next `say`."""
        if self._answer is not None and self._answer.text:
            self.messages.append({"role": "assistant", "content": self._answer.text})
        self.messages.append({"role": "user", "content": text})
        body = {"messages": list(self.messages), "max_tokens": max_tokens, **_json(given or {})}
        self._answer = self._server.write("/chat/completions", body, seed)
        return self._answer


class Server:
    """A server by its address, with or without /v1. model: None asks it for the first that it has."""

    def __init__(self, url: str, model: str | None = None, api_key: str | None = None) -> None:
        """Raises InputError for what is no address, ServerError if nobody answers there."""
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url[:100]!r} is not the address of a server; it begins with http:// or https://.")
        url = url.rstrip("/")
        self._url = url if url.endswith("/v1") else f"{url}/v1"
        self._key = api_key
        self._model = model or self._first_model()

    def generate(
        self, prompt: str, given: Settings, stop: Sequence[str] = (), seed: int | None = None, max_tokens: int = 200
    ) -> RemoteGeneration:
        """Continue a prompt. given: sampling settings by name. Raises EmptyPrompt; ServerError with the first step."""
        if not prompt:
            raise EmptyPrompt("There is nothing to continue: give a prompt of at least one character.")
        body = {"prompt": prompt, "max_tokens": max_tokens, "logprobs": 0, **_json(given)}
        return self.write("/completions", {**body, "stop": list(stop)} if stop else body, seed)

    def chat(self) -> RemoteConversation:
        """A conversation with nothing said yet."""
        return RemoteConversation(self)

    def write(self, path: str, body: dict[str, Any], seed: int | None) -> RemoteGeneration:
        """A text by what asks for it."""
        return RemoteGeneration(self, path, {"model": self._model, **body}, seed)

    def events(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """Server-sent events, as JSON. Raises ServerError."""
        try:
            with self._open(path, body) as answer:
                for line in answer:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = json.loads(data)
                    if "error" in event:
                        raise ServerError(_message(event))
                    yield event
        except (OSError, ValueError, HTTPException) as error:
            raise ServerError(f"{self._url} stopped in the middle of its answer ({error}); ask again.") from error

    def _first_model(self) -> str:
        with self._open("/models", None) as answer:
            try:
                return str(json.load(answer)["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ServerError(f"{self._url} names no models; is it a server of OpenAI's API?") from error

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            return urlopen(Request(self._url + path, data, headers), timeout=_PATIENCE)
        except HTTPError as error:
            with error:
                raise ServerError(_refusal(self._url, error)) from error
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"There is no server at {self._url} ({reason}); start one: nextword serve.") from error


def _refusal(url: str, error: HTTPError) -> str:
    try:
        return _message(json.load(error))
    except (ValueError, LookupError, TypeError):
        return f"{url} refused with status {error.code}."


def _message(event: Mapping[str, Any]) -> str:
    return str(event["error"]["message"])


def _json(given: Settings) -> dict[str, Any]:
    """Settings as JSON has them: ids are texts there, and nothing is infinite."""
    biases = {str(id): max(bias, -1e6) for id, bias in given.get("logit_bias", {}).items()}
    return {**given, "logit_bias": biases} if biases else dict(given)


def _probability(logprobs: Any) -> float:
    try:
        return math.exp(logprobs["token_logprobs"][0])
    except (TypeError, LookupError):
        return 1.0
