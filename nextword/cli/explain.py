"""From a token back to its reasons: components of the model and lines of its text."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextword.base.settings import settings_of
from nextword.base.text import finite, printable, size
from nextword.cli import terminal
from nextword.cli.arguments import (
    AsJson,
    Contrast,
    Device,
    Model,
    Seed,
    TextArgument,
    text_of,
    with_sampling,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model, tokenizer_of
from nextword.errors import InputError
from nextword.sample.settings import DEFAULT_SAMPLING
from nextword.trace.settings import EXPLAIN, Ablation, ExplainSettings, Granularity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextword.trace.receipt.replay import Check


_SETTINGS = settings_of(ExplainSettings)


@app.command()
@with_sampling
def explain(
    given: dict[str, Any],
    prompt: TextArgument = None,
    token: Annotated[
        str | None, typer.Option(show_default="the most probable", help="The token to explain, with its space.")
    ] = None,
    contrast: Contrast = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help=_SETTINGS["count"].doc)] = EXPLAIN.count,
    granularity: Annotated[Granularity, typer.Option(help=_SETTINGS["granularity"].doc)] = EXPLAIN.granularity,
    ablation: Annotated[Ablation, typer.Option(help=_SETTINGS["ablation"].doc)] = EXPLAIN.ablation,
    reference: Annotated[
        str | None, typer.Option(show_default="the prompt", help=_SETTINGS["reference"].doc)
    ] = EXPLAIN.reference,
    seed: Seed = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="the run's own", help="An indexed text to trace the token back to."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the receipt as a page, too.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Why this token: its logit as an exact sum over components, each claim tested by ablating the component.

    With --seed or a sampling option, the token is drawn as `generate` draws it.
    """
    drawn = bool(given) or seed is not None
    if drawn and token is not None:
        raise typer.BadParameter("give --token, or --seed and sampling options, not both")
    _check_file(html)
    from nextword.api import DEFAULT_MODEL
    from nextword.trace.text.sources import sentence
    from nextword.web.pages.receipt import write_page

    words, gpt = text_of(prompt), open_model(model, device)
    with terminal.spinner("reading"):
        receipt = gpt.receipt(
            words,
            token,
            contrast,
            sampling=dataclasses.replace(DEFAULT_SAMPLING, **given) if drawn else None,
            seed=seed,
            count=top,
            granularity=granularity,
            ablation=ablation,
            reference=reference,
            text=text,
            name=model or DEFAULT_MODEL,
        )
        payload = receipt.to_json() if html is None else receipt.with_views()
    if html is not None:
        write_page(html, payload)
    if as_json:
        emit(payload)
    else:
        terminal.explanation(terminal.output(), receipt.explanation)
        print(printable(sentence(payload["sources"])))
    if html is not None:
        terminal.note(f"the receipt is {html}; check it with: nextword replay {html}")


def _check_file(html: Path | None) -> None:
    """Refuse a page that could not be written, before the long work."""
    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise InputError(f"{html} cannot be written: give --html the name of a file in a folder that is there.")


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt: what explain wrote with --html or --json.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default="as it was", help="Where the receipt's model lies.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="as it was", help="Where its indexed text lies.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compute a receipt again and say whether every number holds; exit 1 if not.

    Receipts of earlier versions are checked on the fields that both versions have.
    """
    from nextword.trace.receipt import replay as replaying
    from nextword.web.pages.receipt import read_receipt

    receipt = replaying.upgraded(read_receipt(file))
    request, name = replaying.request_of(receipt), model or replaying.model_of(receipt)
    gpt = open_model(name, device)
    replaying.check_tokenizer(receipt, gpt.hashes())
    with terminal.spinner("computing it again"):
        where = text or replaying.text_folder_of(receipt)
        # A receipt that was made without a text is compared with one made without a text.
        traced = where is not None or replaying.has_text(receipt)
        receipt_again = gpt.receipt(**request, text=where, traced=traced, name=name)
        again = receipt_again.with_views() if "views" in receipt else receipt_again.to_json()
    checks = replaying.compare(receipt, again)
    holds = all(check.holds for check in checks)
    reasons = [] if holds else replaying.reasons(receipt, again)
    if as_json:
        groups = [{**dataclasses.asdict(check), "worst": finite(check.worst), "holds": check.holds} for check in checks]
        emit({"holds": holds, "tolerance": replaying.TOLERANCE, "groups": groups, "reasons": reasons})
    else:
        _print_checks(checks, holds)
        for reason in reasons:
            print(printable(reason))
    if not holds:
        raise typer.Exit(1)


def _print_checks(checks: Sequence[Check], holds: bool) -> None:
    """Print a line for each group, and the verdict."""
    from nextword.trace.receipt.replay import TOLERANCE

    for check in checks:
        found = f"{check.numbers:,} values, largest difference {check.worst:.0e}" if check.holds else check.differs
        skipped = f"; {check.unchecked} not checked" if check.unchecked else ""
        print(printable(f"{'holds' if check.holds else 'FAILS':<6} {check.group:<12} {found}{skipped}"))
    unchecked = sum(check.unchecked for check in checks)
    every = "Every number that both have holds" if unchecked else "Every number holds"
    verdict = every if holds else "The receipt does not hold"
    print(f"{verdict} (numbers within {TOLERANCE:g} of max(1, number); hashes, ids and texts exactly).")
    if unchecked:
        print(f"The receipt is of an earlier version; {unchecked} values that only one version has were not checked.")


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
    from nextword.trace.text.indexed import index_files, reindex

    began, built = time.monotonic(), True
    if out is not None:
        text = index_files(paths, tokenizer_of(None, model), out, on_note=terminal.note, spinner=terminal.spinner)
    elif len(paths) == 1 and model is None:
        text, built = reindex(Path(paths[0]), spinner=terminal.spinner)
    else:
        raise typer.BadParameter("give the folder of one RUN; or PATHs of text and --out DIR")
    facts = {"tokens": len(text.shards.tokens), "documents": text.shards.n_documents, "bytes": text.index.n_bytes}
    if as_json:
        emit({"folder": str(text.folder), "built": built, "seconds": round(time.monotonic() - began, 3), **facts})
        return
    summary = f"{facts['tokens']:,} tokens of {facts['documents']:,} documents, {size(facts['bytes'])}"
    print(f"{summary}: {'indexed' if built else 'the index is there and whole'}")
