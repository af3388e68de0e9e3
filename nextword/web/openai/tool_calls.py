"""Calls of tools in what a model writes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` among its text.

The chat templates of Hermes and Qwen teach this form. Promises, each with a test: text and calls are the same wherever
the chunks divide the text; what turns out to be no call, or is cut off by max_tokens, stays text; white space around
calls is dropped.
"""

from __future__ import annotations

import json
import secrets

from nextword.base.types import Json

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallReader:
    """Separates calls from text in one answer, as it is written."""

    def __init__(self) -> None:
        self.calls = 0  # number of calls so far
        self._held = ""  # text that may begin a call, and the white space before it

    def push(self, text: str, finish: str | None) -> tuple[str, list[Json]]:
        """The text to show and the complete calls; `finish`: the finish reason, None while more may come."""
        self._held += text
        shown, calls = "", list[Json]()
        while (at := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, at)
            if end < 0 and finish != "stop":  # a model may end its text in place of closing its last call
                break
            stop = len(self._held) if end < 0 else end + len(CLOSE)
            call = _call(self._held[at + len(OPEN) : end if end >= 0 else stop])
            shown += self._held[:stop] if call is None else self._held[:at].rstrip()
            calls += [] if call is None else [{"index": self.calls + len(calls), **call}]
            self._held = self._held[stop:]
        self.calls += len(calls)
        if finish is None:
            ready = len((self._held[:at] if at >= 0 else _without_beginning(self._held)).rstrip())
        else:
            ready = len(self._held) if self._held.strip() or not self.calls else 0
        shown, self._held = shown + self._held[:ready], self._held[ready:]
        return shown, calls


def _without_beginning(text: str) -> str:
    """The text without an ending that may be the beginning of `OPEN`."""
    cut = next((cut for cut in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:cut])), 0)
    return text[: len(text) - cut]


def _call(body: str) -> Json | None:
    """The call in OpenAI's form that a body of JSON asks for; None if it is no call."""
    try:
        payload = json.loads(body, parse_constant=_no_number)
        name, arguments = payload["name"], payload.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        f"{name}{arguments}".encode()  # raises for a lone surrogate, which cannot be sent
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(name, str):
        return None
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
