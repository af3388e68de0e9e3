"""From words back to their reasons: weights and lines of text."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextword import terminal
from nextword.arguments import (
    AsJson,
    Device,
    Model,
    Text,
    text_of,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model, tokenizer_of

if TYPE_CHECKING:
    from nextword.trace.removal import Ablation


class Grain(StrEnum):
    """What the causes of an explanation are."""

    finest = "finest"
    read = "read"
    head = "head"
    source = "source"
    layer = "layer"
    neuron = "neuron"


class Removal(StrEnum):
    """How the audit of an explanation removes a cause."""

    zero = "zero"
    mean = "mean"
    resample = "resample"
    none = "none"


@app.command()
def explain(
    prompt: Text = None,
    token: Annotated[
        str | None, typer.Option(show_default="the favourite", help="The token to explain, with its space.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A rival token; else what the model expected.")] = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many causes to show.")] = 12,
    by: Annotated[Grain, typer.Option(help="What a cause is.")] = Grain.finest,
    removal: Annotated[
        Removal, typer.Option("--audit", help="How causes are removed to test each claim; none: no test.")
    ] = Removal.zero,
    reference: Annotated[
        str | None, typer.Option(show_default="the prompt", help="A text that mean and resample are taken from.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Why this token: an exact account of its logit, each claim tested by removing its cause."""
    text, gpt = text_of(prompt), open_model(model, device)
    ablations: dict[Removal, Ablation] = {Removal.zero: "zero", Removal.mean: "mean", Removal.resample: "resample"}
    with terminal.busy("reading"):
        explanation = gpt.explain(
            text,
            token,
            against,
            count=top,
            by=by.value,
            ablation=ablations.get(removal),
            reference=reference,
        )
    if as_json:
        emit(explanation.to_json())
    else:
        terminal.explanation(terminal.output(), explanation)


@app.command()
def index(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="RUN | PATH...", help="The folder of a run, or files and folders of text."),
    ],
    model: Model = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="For PATHs: the new folder of the index.")] = None,
    as_json: AsJson = False,
) -> None:
    """Index the text that a model's words are traced back to: a run's own, or any other cut by its tokenizer."""
    from nextword.trace.indexed import index_files, reindex

    began, built = time.monotonic(), True
    if out is not None:
        text = index_files(paths, tokenizer_of(None, model), out, tell=terminal.note, busy=terminal.busy)
    elif len(paths) == 1 and model is None:
        text, built = reindex(Path(paths[0]), busy=terminal.busy)
    else:
        raise typer.BadParameter("give the folder of one RUN; or PATHs of text and --out DIR")
    facts = {"tokens": len(text.shards.tokens), "documents": text.shards.n_documents, "bytes": text.index.n_bytes}
    if as_json:
        emit({"folder": str(text.folder), "built": built, "seconds": round(time.monotonic() - began, 3), **facts})
        return
    size = f"{facts['tokens']:,} tokens of {facts['documents']:,} documents, {terminal.size(facts['bytes'])}"
    print(f"{size}: {'indexed' if built else 'the index is there and whole'}")
