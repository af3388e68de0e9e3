"""The studio: the page at `/` and the routes that it asks.

Promises, each with a test: only files listed when the router is made are served; what cannot be used is answered
with 400 and one sentence, {"error": {"message"}}; the models are called by one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from nextword.api import GPT
from nextword.corpus.worlds import WORLDS
from nextword.errors import NextwordError
from nextword.web.studio.compare import compare, difference
from nextword.web.studio.models import Models
from nextword.web.studio.requests import (
    Ask,
    AskCompare,
    AskDifference,
    AskModel,
    AskOdds,
    AskRemove,
    AskRun,
    AskTraining,
    AskWhy,
    AskWord,
)
from nextword.web.studio.runs import Learning
from nextword.web.studio.training import Training
from nextword.web.studio.views import Json, Views

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Sentences(APIRoute):
    """A route whose refusals are sentences."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See fastapi.routing.APIRoute."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except NextwordError as error:
                return _refusal(str(error))
            except RequestValidationError as error:
                return _refusal(_told(error.errors()[0]))

        return handler


def _told(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"][1:]) or "The request"
    if fault["type"] == "string_too_long":
        return f"The text ({place}) is over {fault['ctx']['max_length']:,} characters long; shorten it."
    return f"{place}: {fault['msg']}."


def _refusal(sentence: str) -> JSONResponse:
    safe = sentence.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": {"message": safe}}, status_code=400)


def studio_router(
    gpt: GPT,
    lock: threading.Lock,
    *,
    name: str | None = None,
    text: Path | None = None,
    others: Mapping[str, GPT] | None = None,
    run: Path | None = None,
    runs: Path | None = None,
) -> APIRouter:
    """The studio of a model. lock: held while a model is called; share it with whoever else calls it.

    name: what the model is called, None: its file. text: a folder that `nextword index` made, in which words are looked
    up. others: more models by name, to be compared with the first. run: the folder of a run, whose learning is shown.
    runs: a folder in which the page may start runs; None: it may not. A run that it started ends with the application.
    """
    training = None if runs is None else Training(runs)

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        if training is not None:
            await run_in_threadpool(training.stop)

    router, static = APIRouter(route_class=_Sentences, lifespan=life), _static_files()
    first, learning = Views(gpt, name, text), Learning(run, runs)
    named = {first.name: first, **{each: Views(other, each) for each, other in (others or {}).items()}}
    models = Models(named, learning)

    def of(ask: Ask) -> Views:
        return models.named(ask.model)

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> Response:
        return Response(static["index.html"], media_type="text/html", headers=_HEADERS)

    @router.get("/studio/static/{name:path}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in static:
            return JSONResponse({"error": {"message": "The studio has no such file."}}, status_code=404)
        return Response(static[name], media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)

    @router.post("/studio/api/model")
    def model(ask: AskModel) -> Json:
        return models.about(ask.model)

    @router.post("/studio/api/tokens")
    def tokens(ask: Ask) -> Json:
        return of(ask).tokens(ask)

    @router.post("/studio/api/odds")
    def odds(ask: AskOdds) -> Json:
        with lock:
            return of(ask).odds(ask)

    @router.post("/studio/api/next")
    def next_token(ask: AskOdds) -> Json:
        with lock:
            return of(ask).next(ask)

    @router.post("/studio/api/look")
    def look(ask: Ask) -> Json:
        with lock:
            return of(ask).look(ask)

    @router.post("/studio/api/why")
    def why(ask: AskWhy) -> Json:
        with lock:
            return of(ask).why(ask)

    @router.post("/studio/api/without")
    def without(ask: AskWhy) -> Json:
        with lock:
            return of(ask).without(ask)

    @router.post("/studio/api/receipt", response_class=HTMLResponse)
    def receipt(ask: AskOdds) -> Response:
        with lock:
            page = of(ask).receipt(ask)
        return HTMLResponse(page, headers={"Content-Disposition": 'attachment; filename="receipt.html"'})

    @router.post("/studio/api/remove")
    def remove(ask: AskRemove) -> Json:
        with lock:
            return of(ask).remove(ask)

    @router.post("/studio/api/compare")
    def compared(ask: AskCompare) -> Json:
        with lock:
            return compare(of(ask.left), ask.left, of(ask.right), ask.right)

    @router.post("/studio/api/difference")
    def differing(ask: AskDifference) -> Json:
        with lock:
            return difference(of(ask.left), of(ask.right), ask)

    _add_learning(router, learning, training)
    return router


def _add_learning(router: APIRouter, learning: Learning, training: Training | None) -> None:
    lock = threading.Lock()  # of its own: no other model waits while checkpoints are read

    @router.get("/studio/api/runs")
    def runs() -> Json:
        state = None if training is None else training.state()
        return {"runs": list(learning.runs()), "worlds": list(WORLDS), "training": state}

    @router.post("/studio/api/curves")
    def curves(ask: AskRun) -> Json:
        return learning.curves(ask.run)

    @router.post("/studio/api/word")
    def word(ask: AskWord) -> Json:
        with lock:
            return learning.word(ask.run, ask.prompt, ask.continuation)

    if training is None:
        return

    @router.post("/studio/api/train")
    def train(ask: AskTraining) -> Json:
        with lock:
            return training.start(ask.minutes, text=ask.text, world=ask.world)

    @router.post("/studio/api/stop")
    def stop() -> Json:
        with lock:
            return training.stop()


def _static_files() -> Mapping[str, bytes]:
    """What may be served, read once: a path in a request is a key of this table and nothing else."""
    found = {}
    for package, folder, prefix in (
        ("nextword.web.studio", "static", ""),
        ("nextword.web.pages", "components", "components/"),
    ):
        for entry in files(package).joinpath(folder).iterdir():
            if entry.name.rpartition(".")[2] in _TYPES:
                found[prefix + entry.name] = entry.read_bytes()
    return found
