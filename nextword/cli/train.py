"""From text to stored weights: a run, its progress, and how it ends."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextword.cli import terminal
from nextword.cli.arguments import (
    AsJson,
    Device,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, fetch_known, starting
from nextword.corpus.undecodable import Undecodable

if TYPE_CHECKING:
    from nextword.train.events import Event
    from nextword.train.run import Run


class Init(StrEnum):
    """What the weights of a new model start from."""

    random = "random"
    bigrams = "bigrams"


_GO_ON = "All up to the last checkpoint is kept; go on later with: nextword train --resume {folder}"


@app.command()
def train(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files or folders of text, world:pantry, or owner/name on the Hub."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The new folder of the run.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after this time, everything counted.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after this number of steps instead.")] = None,
    until: Annotated[
        float | None, typer.Option(metavar="BPB", help="End once held-out text takes no more bits per byte.")
    ] = None,
    holdout: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Text to measure on, instead of a part of it. Repeatable.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Number of layers; else fitting the time.")] = None,
    from_model: Annotated[
        str | None, typer.Option("--from", metavar="M", help="Go on from the weights of a model, in its own tokens.")
    ] = None,
    not_utf8: Annotated[
        Undecodable | None,
        typer.Option(show_default="skip", help="What to do with text that is not UTF-8: skip, replace or latin-1."),
    ] = None,
    init: Annotated[
        Init | None,
        typer.Option(show_default="random", help="What the weights start from; the text's bigrams: better sooner."),
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default="0", help="Of weights and order.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write RUN/tensorboard, too.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn from text. RUN is a folder that `generate --model RUN` and others open."""
    began = time.monotonic()
    if tensorboard:
        from nextword.train.tensorboard import require_tensorboard

        require_tensorboard()
    given: dict[str, object] = {"PATH": paths, "--minutes": minutes, "--steps": steps, "--until": until}
    given |= {"--holdout": holdout, "--depth": depth, "--from": from_model, "--not-utf8": not_utf8}
    given |= {"--init": init, "--seed": seed}
    if resume is not None:
        if extra := [name for name, value in {**given, "--out": out}.items() if value not in (None, [])]:
            raise typer.BadParameter(f"a resumed run keeps what it began with; leave out {', '.join(extra)}")
        _resume(resume, device, as_json, tensorboard)
        return
    if not paths or out is None:
        raise typer.BadParameter("give the PATHs of text and --out RUN; or --resume RUN")
    if (minutes is None) == (steps is None):
        raise typer.BadParameter("say how long: --minutes or --steps, one of them")
    if from_model is not None and (depth is not None or init is not None):
        raise typer.BadParameter("a model has its own depth and weights: leave out --depth and --init")
    with ended_in_order(out):
        if from_model is not None:
            fetch_known(from_model)
        with starting():
            from nextword.train.plan import Budget
            from nextword.train.run import start

        with terminal.working() as on_progress:
            run = start(
                paths,
                out,
                Budget(minutes, steps, until),
                holdout=holdout or (),
                depth=depth,
                model=from_model,
                errors=not_utf8 or "skip",
                seed=seed or 0,
                init=(init or Init.random).value,
                device=device,
                began=began,
                on_note=terminal.note,
                on_progress=on_progress,
            )
        show_training(run, as_json, tensorboard)


def _resume(folder: Path, device: str, as_json: bool, tensorboard: bool) -> None:
    with ended_in_order(folder):
        with starting():
            from nextword.train.run import resume

        run = resume(folder, device=device)
        terminal.note(f"Going on after step {run.trainer.step:,} of {run.trainer.steps:,}.")
        show_training(run, as_json, tensorboard)


def show_training(run: Run, as_json: bool, tensorboard: bool) -> None:
    """Train a run to its end and print its progress.

    Args:
        run: A run that was begun or resumed.
        as_json: Whether to print its events as lines of JSON.
        tensorboard: Whether to write them for TensorBoard, too.
    """
    from nextword.train.events import Finished, Measured, Sampled, Stepped, Stopped

    folder, measured = shlex.quote(str(run.folder)), ""
    with _kept(folder), _board(run, tensorboard) as draw, _stop_signals() as signals, terminal.training_bar() as show:
        for event in run.train(lambda: bool(signals)):
            draw(event)
            if isinstance(event, Measured):
                measured = f", held out {event.evaluation.bits_per_byte:.3f}"
            elif isinstance(event, Sampled):
                terminal.sample(event.step, event.text)
            elif isinstance(event, Stepped):
                bits = f"{event.progress.bits_per_byte:.3f} bits/byte{measured}"
                rest = f"{event.tokens_per_second:,.0f} tokens/s, {event.mfu:.0%} MFU"
                if event.step == event.steps and run.trainer.heldout is not None:
                    rest = "now measuring once more"
                show(event.step, event.steps, f"{bits}, {rest}")
            if as_json and not (isinstance(event, Stepped) and not event.is_logged):
                emit(event.record())
    if isinstance(event, Stopped):
        terminal.note(f"Stopped after step {event.step:,}; go on with: nextword train --resume {folder}")
        raise typer.Exit(128 + signals[0])
    if isinstance(event, Finished) and not as_json:
        _print_results(run, event.results)


def _print_results(run: Run, results: Mapping[str, Any]) -> None:
    """Print the model's bits per byte, and the command to use it."""
    from nextword.parameters.run_folder import RunFolder

    folder = shlex.quote(str(run.folder))
    bits = results["bits_per_byte"]
    outcome = "nothing was held out to measure" if bits is None else f"{bits:.4f} bits per byte on held-out text"
    print(f"{outcome}, {results['steps']:,} steps, {results['seconds']:.1f} s{_forecast(run, bits)}")
    if better := results["better"]:
        print(
            f"step {better['step']:,} was better, {better['bits_per_byte']:.4f} bits per byte: a text that is read "
            f"again and again is learned by heart. To use it: --model {folder}@{better['step']}"
        )
    print(f"curves, samples and settings: {RunFolder(run.folder).page_path}")
    print(f"nextword chat --model {folder}" if run.is_talk else f'nextword generate --model {folder} "..."')


def _forecast(run: Run, bits: float | None) -> str:
    """The forecast, or the bits per byte of the model that the run started from, to print beside the result."""
    if bits is not None and run.origin is not None and run.origin.bits_per_byte is not None:
        return f" ({run.origin.model}, as it was: {run.origin.bits_per_byte:.4f} on a sample)"
    expected = run.forecast.get("bits_per_byte")
    if bits is None or expected is None:
        return ""
    most = "" if run.budget.until is None else "at most "
    return f" (forecast: {expected:.4f}, {most}{run.forecast['steps']:,} steps, {most}{run.forecast['seconds']:.1f} s)"


@contextmanager
def _board(run: Run, wanted: bool) -> Iterator[Callable[[Event], None]]:
    """A function that writes an event for TensorBoard; if that is not wanted, it does nothing."""
    if not wanted:
        yield lambda event: None
        return
    from nextword.train.tensorboard import Board

    board = Board(run.folder, run.trainer.step)
    try:
        yield board.show
    finally:
        board.close()


@contextmanager
def _kept(folder: str) -> Iterator[None]:
    """If disk or memory is used up inside, print how to go on later."""
    from nextword.errors import NoDiskRoom, OutOfMemory

    try:
        yield
    except (NoDiskRoom, OutOfMemory):
        terminal.note(_GO_ON.format(folder=folder))
        raise


@contextmanager
def ended_in_order(folder: Path) -> Iterator[None]:
    """If Ctrl-C or SIGTERM ends a run at once, before its first step or the second time, print what is kept."""
    by: int = signal.SIGINT

    def interrupt(number: int, frame: object) -> None:
        nonlocal by
        by = number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        from nextword.parameters.run_folder import RunFolder

        if RunFolder(folder).steps():
            terminal.note(_GO_ON.format(folder=shlex.quote(str(folder))))
        else:
            terminal.note("Stopped before there was anything to keep; give the same command to begin again.")
        raise typer.Exit(128 + by) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals to stop, Ctrl-C and SIGTERM, as they arrive; the second of a kind acts as without this."""
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
