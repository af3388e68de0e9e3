"""The studio: the page at `/` and the routes that answer its questions.

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
from nextword.web.studio import explain
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
    """A route that answers an error of nextword or of the request's form with 400 and one sentence."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See fastapi.routing.APIRoute."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except NextwordError as error:
                return _refusal(str(error))
            except RequestValidationError as error:
                return _refusal(_fault_sentence(error.errors()[0]))

        return handler


def _fault_sentence(fault: Mapping[str, Any]) -> str:
    """What is wrong with a field of the request, from pydantic's account of the fault."""
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
    """The studio of a model: its page at `/`, its files below /studio/static/ and its questions below /studio/api/.

    A training run that the page started ends with the application.

    Args:
        gpt: The model that is meant where a request names none.
        lock: Held while a model is called; share it with whoever else calls the models.
        name: What the model is called, None: its file.
        text: A folder that `nextword index` made, in which words are looked up; None: the model's own text.
        others: More models by name, to be compared with the first.
        run: The folder of a training run whose curves and checkpoints are shown.
        runs: A folder in which the page may start training runs, and whose runs are shown; None: it may start none.
    """
    training = None if runs is None else Training(runs)

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        if training is not None:
            await run_in_threadpool(training.stop)

    router = APIRouter(route_class=_Sentences, lifespan=life)
    first, learning = Views(gpt, name, text), Learning(run, runs)
    named = {first.name: first, **{each: Views(other, each) for each, other in (others or {}).items()}}
    models = Models(named, learning)
    _add_page(router)
    _add_answers(router, models, lock)
    _add_comparisons(router, models, lock)
    _add_learning(router, learning, training)
    return router


def _add_page(router: APIRouter) -> None:
    static = _static_files()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> Response:
        return Response(static["index.html"], media_type="text/html", headers=_HEADERS)

    @router.get("/studio/static/{name:path}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in static:
            return JSONResponse({"error": {"message": "The studio has no such file."}}, status_code=404)
        return Response(static[name], media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)


# What is answered by calling a model: the route's name, the body of the request, and the function that answers.
_ANSWERS: tuple[tuple[str, type[TextRequest], Callable[[Views, Any], Json]], ...] = (
    ("distribution", DrawRequest, Views.distribution),
    ("next", DrawRequest, Views.next),
    ("look", TextRequest, explain.look),
    ("why", WhyRequest, explain.why),
    ("leave_one_out", WhyRequest, explain.leave_one_out),
    ("ablate", AblationRequest, explain.ablate),
)


def _add_answers(router: APIRouter, models: Models, lock: threading.Lock) -> None:
    """The questions about one model; the first two call none and so do not wait for the lock."""

    @router.post("/studio/api/model")
    def model(request: ModelRequest) -> Json:
        return models.about(request.model)

    @router.post("/studio/api/tokens")
    def tokens(request: TextRequest) -> Json:
        return models.named(request.model).tokens(request)

    @router.post("/studio/api/receipt", response_class=HTMLResponse)
    def receipt(request: DrawRequest) -> Response:
        with lock:
            page = explain.receipt_page(models.named(request.model), request)
        return HTMLResponse(page, headers={"Content-Disposition": 'attachment; filename="receipt.html"'})

    for name, body, answer in _ANSWERS:
        handler = _locked(models, lock, body, answer)
        router.add_api_route(f"/studio/api/{name}", handler, methods=["POST"], name=name)


def _locked(
    models: Models, lock: threading.Lock, body: type[TextRequest], answer: Callable[[Views, Any], Json]
) -> Callable[[TextRequest], Json]:
    """The handler of a route: finds the model that the request names, and answers while no other thread calls one."""

    def handler(request: TextRequest) -> Json:
        with lock:
            return answer(models.named(request.model), request)

    handler.__annotations__["request"] = body  # FastAPI reads here what the body holds
    return handler


def _add_comparisons(router: APIRouter, models: Models, lock: threading.Lock) -> None:
    @router.post("/studio/api/compare")
    def compared(request: ComparisonRequest) -> Json:
        with lock:
            left, right = models.named(request.left.model), models.named(request.right.model)
            return compare(left, request.left, right, request.right)

    @router.post("/studio/api/difference")
    def differing(request: DifferenceRequest) -> Json:
        with lock:
            return difference(models.named(request.left.model), models.named(request.right.model), request)


def _add_learning(router: APIRouter, learning: Learning, training: Training | None) -> None:
    lock = threading.Lock()  # another one: nobody waits for a model while checkpoints are read

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
    """The files that may be served, by name: a path in a request is a key of this table and nothing else."""
    found = {}
    for package, folder, prefix in (
        ("nextword.web.studio", "static", ""),
        ("nextword.web.pages", "elements", "elements/"),
    ):
        for entry in files(package).joinpath(folder).iterdir():
            if entry.name.rpartition(".")[2] in _TYPES:
                found[prefix + entry.name] = entry.read_bytes()
    return found
