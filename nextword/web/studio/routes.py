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
from nextword.base.types import Json
from nextword.corpus.worlds import WORLDS
from nextword.errors import NextwordError
from nextword.web.studio.compare import compare, difference
from nextword.web.studio.models import Models
from nextword.web.studio.requests import (
    AblationRequest,
    ComparisonRequest,
    DifferenceRequest,
    DrawRequest,
    ModelRequest,
    RunRequest,
    TextRequest,
    TrainingRequest,
    WhyRequest,
    WordRequest,
)
from nextword.web.studio.runs import Learning
from nextword.web.studio.training import Training
from nextword.web.studio.views import Views

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
                return _refusal(_payload(error.errors()[0]))

        return handler


def _payload(fault: Mapping[str, Any]) -> str:
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

    def of(request: TextRequest) -> Views:
        return models.named(request.model)

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> Response:
        return Response(static["index.html"], media_type="text/html", headers=_HEADERS)

    @router.get("/studio/static/{name:path}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in static:
            return JSONResponse({"error": {"message": "The studio has no such file."}}, status_code=404)
        return Response(static[name], media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)

    @router.post("/studio/api/model")
    def model(request: ModelRequest) -> Json:
        return models.about(request.model)

    @router.post("/studio/api/tokens")
    def tokens(request: TextRequest) -> Json:
        return of(request).tokens(request)

    @router.post("/studio/api/distribution")
    def distribution(request: DrawRequest) -> Json:
        with lock:
            return of(request).distribution(request)

    @router.post("/studio/api/next")
    def next_token(request: DrawRequest) -> Json:
        with lock:
            return of(request).next(request)

    @router.post("/studio/api/look")
    def look(request: TextRequest) -> Json:
        with lock:
            return of(request).look(request)

    @router.post("/studio/api/why")
    def why(request: WhyRequest) -> Json:
        with lock:
            return of(request).why(request)

    @router.post("/studio/api/leave_one_out")
    def leave_one_out(request: WhyRequest) -> Json:
        with lock:
            return of(request).leave_one_out(request)

    @router.post("/studio/api/receipt", response_class=HTMLResponse)
    def receipt(request: DrawRequest) -> Response:
        with lock:
            page = of(request).receipt(request)
        return HTMLResponse(page, headers={"Content-Disposition": 'attachment; filename="receipt.html"'})

    @router.post("/studio/api/ablate")
    def ablate(request: AblationRequest) -> Json:
        with lock:
            return of(request).ablate(request)

    @router.post("/studio/api/compare")
    def compared(request: ComparisonRequest) -> Json:
        with lock:
            return compare(of(request.left), request.left, of(request.right), request.right)

    @router.post("/studio/api/difference")
    def differing(request: DifferenceRequest) -> Json:
        with lock:
            return difference(of(request.left), of(request.right), request)

    _add_learning(router, learning, training)
    return router


def _add_learning(router: APIRouter, learning: Learning, training: Training | None) -> None:
    lock = threading.Lock()  # of its own: no other model waits while checkpoints are read

    @router.get("/studio/api/runs")
    def runs() -> Json:
        state = None if training is None else training.state()
        return {"runs": list(learning.runs()), "worlds": list(WORLDS), "training": state}

    @router.post("/studio/api/curves")
    def curves(request: RunRequest) -> Json:
        return learning.curves(request.run)

    @router.post("/studio/api/word")
    def word(request: WordRequest) -> Json:
        with lock:
            return learning.word(request.run, request.prompt, request.continuation)

    if training is None:
        return

    @router.post("/studio/api/train")
    def train(request: TrainingRequest) -> Json:
        with lock:
            return training.start(request.minutes, text=request.text, world=request.world)

    @router.post("/studio/api/stop")
    def stop() -> Json:
        with lock:
            return training.stop()


def _static_files() -> Mapping[str, bytes]:
    """What may be served, read once: a path in a request is a key of this table and nothing else."""
    found = {}
    for package, folder, prefix in (
        ("nextword.web.studio", "static", ""),
        ("nextword.web.pages", "elements", "elements/"),
    ):
        for entry in files(package).joinpath(folder).iterdir():
            if entry.name.rpartition(".")[2] in _TYPES:
                found[prefix + entry.name] = entry.read_bytes()
    return found
