"""An app on a free port of this machine, as the tests talk to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import fastapi
import uvicorn


@contextmanager
def served(app: fastapi.FastAPI) -> Iterator[str]:
    """The app's address while it runs."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def call(address: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of an answer. body: JSON to post, or bytes to post as they are; None gets."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(address + path, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read()
    except HTTPError as error:
        with error:
            status, text = error.code, error.read()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()
