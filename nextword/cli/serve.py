"""A server for programs and people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextword.cli import terminal
from nextword.cli.arguments import CpuWeights, Device, KvCache, Model
from nextword.cli.root import app
from nextword.cli.shared import open_model
from nextword.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

GRACE = 10.0  # seconds: for texts to end after Ctrl-C


@app.command()
def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 admits other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="NEXTWORD_API_KEY", help="Answer only requests with this key.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A web page's origin that may send requests; * for all. Repeatable."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=64, help="The number of texts generated at once.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="The number of texts that may wait for a row.")] = 64,
    context: Annotated[
        int | None, typer.Option(min=1, show_default="the model's", help="The number of tokens of a text, at most.")
    ] = None,
    name: Annotated[str | None, typer.Option(show_default="MODEL", help="What clients call the model.")] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Made by `nextword index`: receipts look words up in it.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Another model, for the page to compare with. Repeatable.")
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="A run whose learning the page shows.")] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The page may start training runs, in this folder.")
    ] = None,
    device: Device = "auto",
    weights: CpuWeights = "auto",
    kv_cache: KvCache = "auto",
) -> None:
    """Serve OpenAI's API, and a page that shows each step from text to word.

    Set OPENAI_BASE_URL to the address it prints, with /v1, and existing programs work unchanged.
    """
    gpt = open_model(model, device, weights, kv_cache)
    from nextword.web.app import create_app
    from nextword.web.guard import Rules, hosts_of

    rules = Rules(api_key, tuple(allow_origin or ()), hosts_of(host))
    served = create_app(
        gpt,
        name=name or _called(model) or gpt.path.stem,
        rules=rules,
        rows=rows,
        queue=queue,
        context=context,
        text=text,
        others={_called(other): open_model(other, device, weights, kv_cache) for other in compare or ()},
        run=run,
        runs=runs,
    )
    if rules.hosts is None and api_key is None:
        terminal.note("Anybody who reaches this machine can send requests: set --api-key.")
    if api_key is not None:
        terminal.note("A browser will ask for a name and a password: any name, and the key.")
    _run(served, host, port)


def _called(model: str | None) -> str:
    """The name that a model is served under: of a path the last part, so that no answer tells where it lies."""
    return Path(model).resolve().name if model and os.path.exists(model) else model or ""


def _run(served: FastAPI, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; texts that are being generated then have GRACE seconds to end."""
    import socket

    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if self.should_exit:  # the second signal: end at once
                os._exit(128 + sig)
            served.state.service.scheduler.close(GRACE)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        served, log_level="warning", ws="none", server_header=False, timeout_graceful_shutdown=int(GRACE) + 2
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family, backlog=1024) as listener:
            shown = f"[{host}]" if ":" in host else host
            address = f"http://{shown}:{listener.getsockname()[1]}"
            print(f"{address}     the page\n{address}/v1  OPENAI_BASE_URL\nCtrl-C ends it.", flush=True)
            Server(config).run(sockets=[listener])
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on ({(error.strerror or 'refused').lower()}); try another --port."
        ) from error
