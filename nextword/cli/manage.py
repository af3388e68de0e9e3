"""Pull, list and export models, and check the machine."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nextword.cli import terminal
from nextword.cli.arguments import (
    AsJson,
    ModelName,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, fetch, fetch_known


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name that `models` lists, or owner/model on the Hub.")],
    as_json: AsJson = False,
) -> None:
    """Download a model. What was fetched before an interruption is kept."""
    path = str(fetch(name))
    if as_json:
        emit({"name": name, "path": path})
    else:
        print(path)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that are here or known by name."""
    from nextword.parameters.bundled import BUNDLED, find_bundled
    from nextword.parameters.pull import KNOWN, pulled

    here = pulled()
    rows = [
        {"name": name, "path": str(find_bundled(name)), "size": bundled.size, "licence": bundled.licence}
        for name, bundled in BUNDLED.items()
    ]
    for name in sorted(KNOWN.keys() | here.keys()):
        known, path = KNOWN.get(name), here.get(name)
        size = known.size if known else _size(here[name])
        licence = known.licence if known else None
        rows.append({"name": name, "path": path and str(path), "size": size, "licence": licence})
    if as_json:
        emit({"models": rows})
    else:
        terminal.models(terminal.output(), rows)


class ExportFormat(StrEnum):
    """A format that models are exported to."""

    hf = "hf"
    gguf = "gguf"


class GgufWeights(StrEnum):
    """The format of the matrices in a GGUF file."""

    f32 = "f32"
    f16 = "f16"
    q8_0 = "q8_0"
    q4_1 = "q4_1"


@app.command()
def export(
    model: ModelName,
    to: Annotated[
        ExportFormat, typer.Option(help="hf: a folder for transformers and others; gguf: a file for llama.cpp.")
    ],
    out: Annotated[Path, typer.Option(help="The new folder or file.")],
    weights: Annotated[
        GgufWeights, typer.Option(help="The format of the matrices in a gguf file; hf: f32.")
    ] = GgufWeights.f32,
) -> None:
    """Write a model in a format that other programs open."""
    from nextword.parameters.export import export_gguf, export_hf
    from nextword.parameters.run_folder import open_named

    if to is ExportFormat.hf and weights is not GgufWeights.f32:
        raise typer.BadParameter("--weights is for --to gguf; hf is written in f32")
    fetch_known(model)
    with terminal.spinner("writing"):
        if to is ExportFormat.hf:
            export_hf(open_named(model), out)
        else:
            export_gguf(open_named(model), out, weights.upper())
    print(out)


@app.command()
def doctor(
    warm: Annotated[bool, typer.Option("--warm", help="Compile the CPU kernels now, not at first use.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether this machine is ready. The exit code is 1 if something is broken."""
    from nextword.cli.doctor import examine

    if warm:
        from nextword.predict.cpu.engine import warm_up

        with terminal.spinner("compiling the CPU kernels"):
            warm_up()
    console, checks = terminal.output(), []
    for check in examine():
        checks.append(check)
        if not as_json:
            terminal.check(console, check)
    ok = all(check.status != "problem" for check in checks)
    if as_json:
        emit({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    if not ok:
        raise typer.Exit(1)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)
