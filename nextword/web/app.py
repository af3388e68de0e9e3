"""The server: OpenAI's routes over one model, llama.cpp's /tokenize and /detokenize, and the studio at `/`.

    app = create_app(gpt, name="smollm2")

Promises, each with a test: the openai package and other clients of its API work unchanged; a request that cannot be
used is answered with 4xx and one sentence; a text depends on its request and seed alone; no file is read that was not
named at the start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.concurrency import run_in_threadpool

from nextword.api import GPT
from nextword.base.types import Json
from nextword.base.version import __version__
from nextword.trace.text.indexed import own_text
from nextword.web import problems
from nextword.web.guard import Guard, Rules
from nextword.web.metrics import metrics_of
from nextword.web.openai import chat, completions
from nextword.web.openai.respond import respond
from nextword.web.openai.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ExplainRequest,
    TokenizeRequest,
)
from nextword.web.openai.service import Service
from nextword.web.studio.routes import studio_router


def create_app(
    gpt: GPT,
    *,
    name: str,
    rules: Rules | None = None,
    rows: int = 8,
    queue: int = 64,
    context: int | None = None,
    text: Path | None = None,
    others: Mapping[str, GPT] | None = None,
    run: Path | None = None,
    runs: Path | None = None,
) -> FastAPI:
    """The application of one model; it stops its scheduler when it is shut down. `app.state.service` is the Service.

    Args:
        gpt: The model.
        name: What clients call the model.
        rules: Who may ask, and how much; None: everybody, bodies of up to 1 MiB.
        rows: Number of texts written at once.
        queue: Number of further texts that may wait.
        context: Tokens that each text has room for, the model's own context if None.
        text: A folder that `nextword index` made, for receipts and the studio.
        others: More models of the studio, by name.
        run: The folder of a training run that the studio shows.
        runs: A folder in which the studio's page may start training runs.

    Raises:
        ContextOverflow: There is no memory for texts of this length.
    """
    rules = rules or Rules()
    for each in [*([] if text else [gpt]), *(others or {}).values()]:
        own_text(each.path)  # an index that is missing is built now, not while somebody waits for an answer
    service = Service(gpt, name, rows=rows, queue=queue, context=context, text=text)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.scheduler.close(0)
        await run_in_threadpool(service.scheduler.join, 10)

    # Without FastAPI's own pages, which load scripts from elsewhere. The schema is at /openapi.json.
    app = FastAPI(title="nextword", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    problems.install(app)
    _add_generation(app, service)
    _add_small_routes(app, service)
    app.include_router(
        studio_router(gpt, service.lock, name=name, text=service.text, others=others, run=run, runs=runs)
    )
    if rules.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(rules.origins), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Guard, rules=rules)
    return app


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def complete(request: CompletionRequest, http: Request) -> Response:
        """Continue one or more prompts."""
        service.check_model(request.model)
        texts = await run_in_threadpool(completions.texts_of, service, request)
        return await respond(http, service, request, texts, completions.CompletionShape(service.tokenizer, request))

    @app.post("/v1/chat/completions")
    async def answer(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation."""
        service.check_model(request.model)
        texts = await run_in_threadpool(chat.texts_of, service, request)
        return await respond(http, service, request, texts, chat.ChatShape(service.tokenizer, request))


def _add_small_routes(app: FastAPI, service: Service) -> None:
    def model() -> Json:
        return {"id": service.name, "object": "model", "created": service.started, "owned_by": "nextword"}

    @app.get("/v1/models")
    def models() -> Json:
        """The model that is served."""
        return {"object": "list", "data": [model()]}

    @app.get("/v1/models/{name:path}")
    def one_model(name: str) -> Json:
        """The model, if that is its name."""
        service.check_model(name)
        return model()

    @app.post("/v1/explain")
    def explain(request: ExplainRequest) -> Json:
        """Why a token comes next: its receipt."""
        service.check_model(request.model)
        return service.explain(request)

    @app.post("/tokenize")
    def tokenize(request: TokenizeRequest) -> Json:
        """The ids of a text."""
        content = request.content or request.prompt
        ids = service.tokenizer.encode(content, begin=request.add_special) if content else []
        with_text = [{"id": id, "piece": service.tokenizer.token_text(id)} for id in ids]
        tokens = with_text if request.with_pieces else ids
        return {"tokens": tokens, "count": len(ids), "max_model_len": service.scheduler.capacity}

    @app.post("/detokenize")
    def detokenize(request: DetokenizeRequest) -> Json:
        """The text of ids."""
        text = service.tokenizer.decode(request.tokens)
        return {"content": text, "prompt": text}

    @app.get("/health")
    def health() -> Json:
        """Whether the server is up; answered without a key."""
        scheduler = service.scheduler
        return {"status": "ok", "rows": scheduler.size, "running": scheduler.running, "waiting": scheduler.waiting}

    @app.get("/metrics")
    def metrics() -> Response:
        """Counters and gauges for Prometheus."""
        return Response(metrics_of(service.scheduler), media_type="text/plain; version=0.0.4; charset=utf-8")
