"""A client of OpenAI's API, of nextword's own server or any other: the server is used as an opened model is.

    for step in Server("http://127.0.0.1:8000").generate("Once upon a time", {"temperature": 0.5}):
        print(step.text, end="")

Settings that are left out are the server's. No model is loaded, and little of nextword is imported.
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

_PATIENCE = 600  # seconds: without a byte from the server, before it counts as gone

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class TextChunk:
    """The text of one event of a stream: mostly one token.

    Attributes:
        text: The text.
        probability: Of its first token; 1 if the server sends no logprobs.
    """

    text: str
    probability: float


class RemoteGeneration:
    """A text being written by a server. Iterate it to its end, or leave it, which ends it on the server too.

    Attributes:
        seed: What the draws depend on.
        chunks: What has come so far.
        finish_reason: None until the text has ended, then "stop" or "length".
        tokens_per_second: Events per second since the first.
    """

    def __init__(self, server: Server, path: str, body: dict[str, Any], seed: int | None) -> None:
        """Prepare the request; it is sent when the iteration begins.

        Args:
            server: Where the text is written.
            path: The route below /v1, with a leading slash.
            body: The request without seed and stream.
            seed: What the draws depend on, None: a new one.
        """
        self.seed = new_seed() if seed is None else check_seed(seed)
        self.chunks: list[TextChunk] = []
        self.finish_reason: str | None = None
        self.tokens_per_second = 0.0
        self._events = server.events(path, {**body, "seed": self.seed, "stream": True})

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return "".join(chunk.text for chunk in self.chunks)

    def __iter__(self) -> Iterator[TextChunk]:
        began = None
        with closing(self._events):
            for event in self._events:
                for choice in event.get("choices", [])[:1]:
                    self.finish_reason = choice.get("finish_reason") or self.finish_reason
                    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    if not text:
                        continue
                    self.chunks.append(TextChunk(text, _probability(choice.get("logprobs"))))
                    began = began or time.perf_counter()
                    if (passed := time.perf_counter() - began) > 0:
                        self.tokens_per_second = (len(self.chunks) - 1) / passed
                    yield self.chunks[-1]


class RemoteConversation:
    """A conversation with a model of a server."""

    def __init__(self, server: Server) -> None:
        self.messages: list[dict[str, str]] = []
        self._server = server
        self._answer: RemoteGeneration | None = None

    def say(
        self, text: str, *, given: Settings | None = None, max_tokens: int = 500, seed: int | None = None
    ) -> RemoteGeneration:
        """Add a message of the user's and ask for the answer, which joins the messages with the next `say`.

        Args:
            text: The user's message.
            given: Sampling settings by name, None: the server's.
            max_tokens: Number of tokens that the answer has at most.
            seed: What the draws depend on, None: a new one.
        """
        if self._answer is not None and self._answer.text:
            self.messages.append({"role": "assistant", "content": self._answer.text})
        self.messages.append({"role": "user", "content": text})
        body = {"messages": list(self.messages), "max_tokens": max_tokens, **_json(given or {})}
        self._answer = self._server.write("/chat/completions", body, seed)
        return self._answer


class Server:
    """A server of OpenAI's API and one of its models."""

    def __init__(self, url: str, model: str | None = None, api_key: str | None = None) -> None:
        """Take a server by its address.

        Args:
            url: The address, with or without /v1 at its end.
            model: The model's name, None: the first that the server lists.
            api_key: Sent as a bearer token.

        Raises:
            InputError: `url` is no address.
            ServerError: No server of OpenAI's API answers there (asked only where `model` is None).
        """
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url[:100]!r} is not the address of a server; it begins with http:// or https://.")
        url = url.rstrip("/")
        self._url = url if url.endswith("/v1") else f"{url}/v1"
        self._key = api_key
        self._model = model or self._first_model()

    def generate(
        self, prompt: str, given: Settings, stop: Sequence[str] = (), seed: int | None = None, max_tokens: int = 200
    ) -> RemoteGeneration:
        """Continue a prompt.

        Args:
            prompt: The text to continue, not empty.
            given: Sampling settings by name; those left out are the server's.
            stop: Strings before which the text ends.
            seed: What the draws depend on, None: a new one.
            max_tokens: Number of tokens that are written at most.

        Raises:
            EmptyPrompt: The prompt is empty. ServerError comes with the first step of the iteration.
        """
        if not prompt:
            raise EmptyPrompt("There is nothing to continue: give a prompt of at least one character.")
        body = {"prompt": prompt, "max_tokens": max_tokens, "logprobs": 0, **_json(given)}
        return self.write("/completions", {**body, "stop": list(stop)} if stop else body, seed)

    def chat(self) -> RemoteConversation:
        """A conversation without a message."""
        return RemoteConversation(self)

    def write(self, path: str, body: dict[str, Any], seed: int | None) -> RemoteGeneration:
        """A text by the route and the body that ask for it.

        Args:
            path: The route below /v1, with a leading slash.
            body: The request without model, seed and stream.
            seed: What the draws depend on, None: a new one.
        """
        return RemoteGeneration(self, path, {"model": self._model, **body}, seed)

    def events(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The server-sent events of an answer, as JSON values. Raises ServerError."""
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
    """Settings as JSON values: the ids of `logit_bias` as texts, -inf as -1e6, which JSON can say."""
    biases = {str(id): max(bias, -1e6) for id, bias in given.get("logit_bias", {}).items()}
    return {**given, "logit_bias": biases} if biases else dict(given)


def _probability(logprobs: Any) -> float:
    try:
        return math.exp(logprobs["token_logprobs"][0])
    except (TypeError, LookupError):
        return 1.0
