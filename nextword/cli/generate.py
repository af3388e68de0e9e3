"""From a prompt to probabilities, and to text; from a text to its log-probabilities."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextword.base.text import finite
from nextword.cli import terminal
from nextword.cli.arguments import (
    AsJson,
    CpuWeights,
    Device,
    KvCache,
    MaxTokens,
    Model,
    Seed,
    ServerUrl,
    TextArgument,
    WritingCommand,
    file_text,
    text_of,
    utf8,
    with_sampling,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model, starting
from nextword.errors import NextwordError

if TYPE_CHECKING:
    from nextword.api import GPT, Conversation
    from nextword.sample.generation import Generation
    from nextword.sample.settings import Sampling
    from nextword.web.client import RemoteConversation, RemoteGeneration, Server


@app.command()
@with_sampling
def predict(
    given: dict[str, Any],
    prompt: TextArgument = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="The number of tokens to show.")] = 10,
    device: Device = "auto",
    weights: CpuWeights = "auto",
    kv_cache: KvCache = "auto",
    as_json: AsJson = False,
) -> None:
    """The probability of every next token. With sampling options: also the probability that they give it."""
    from nextword.sample.settings import Sampling

    sampling, text, gpt = Sampling(**given), text_of(prompt), open_model(model, device, weights, kv_cache)
    with starting(), terminal.spinner("reading"):
        prediction = gpt.predict(text, sampling)
    rows, removed = prediction.top(top), prediction.removed_mass
    if as_json:
        chosen = [dataclasses.asdict(row) for row in rows]
        emit({"ids": prediction.ids, "next": chosen, "removed_mass": removed})
        return
    terminal.probabilities(terminal.output(), rows, filtered=bool(given))
    rest = f"{1 - sum(row.probability for row in rows):.2%} is for all other tokens"
    terminal.note(f"{rest}; sampling removes {removed:.2%}" if given else rest)


@app.command(cls=WritingCommand)
@with_sampling
def generate(
    given: dict[str, Any],
    prompt: TextArgument = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ends the text and is not shown. Repeatable.")
    ] = None,
    seed: Seed = None,
    chips: Annotated[bool, typer.Option("--chips", help="Colour every token by its surprisal.")] = False,
    device: Device = "auto",
    weights: CpuWeights = "auto",
    kv_cache: KvCache = "auto",
    server: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt, token by token. In a pipe, the continuation alone."""
    if server is not None:
        _refuse_local_options((device, weights, kv_cache), as_json)
        remote = _server(server, model).generate(text_of(prompt), given, stop or (), seed, **_limit(max_tokens))
        _show(terminal.TextStream(), remote, chips)
        terminal.note(_summary(remote, len(remote.chunks)))
        return
    sampling, text, gpt = _sampling(given), text_of(prompt), open_model(model, device, weights, kv_cache)
    with starting(), terminal.spinner("reading"):
        generation = gpt.generate(text, sampling=sampling, stop=stop or (), seed=seed, **_limit(max_tokens))
    if as_json:
        _print_json(gpt, generation)
        return
    stream = terminal.TextStream()
    if stream.is_terminal:
        stream.write(text, "dim")
    _show(stream, generation, chips)
    if chips and stream.is_terminal:
        terminal.legend()
    terminal.note(_summary(generation, len(generation.tokens)))


@app.command(cls=WritingCommand)
@with_sampling
def chat(
    given: dict[str, Any],
    model: Model = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    device: Device = "auto",
    weights: CpuWeights = "auto",
    kv_cache: KvCache = "auto",
    server: ServerUrl = None,
) -> None:
    """A conversation. Ctrl-C stops an answer, /reset starts over, /bye or Ctrl-D ends it."""
    from nextword.api import CHAT_MODEL

    begin: Callable[[], Conversation | RemoteConversation]
    how: dict[str, Any]
    if server is not None:
        _refuse_local_options((device, weights, kv_cache))
        there = _server(server, model)
        begin, how = there.chat, {"given": given}
    else:
        begin, how = open_model(model or CHAT_MODEL, device, weights, kv_cache).chat, {"sampling": _sampling(given)}
    conversation = begin()
    talking = terminal.talking()
    if talking:
        terminal.note("Ctrl-C stops an answer, /reset starts over, /bye or Ctrl-D ends.")
    for line in terminal.ask() if talking else sys.stdin:
        said = line.strip()
        if said == "/bye":
            break
        if said == "/reset":
            conversation = begin()
            terminal.note("(a new conversation)")
        elif said:
            try:
                _answer(conversation, said, seed=seed, **how, **_limit(max_tokens))
            except NextwordError as error:
                if not talking:
                    raise
                terminal.complain(str(error))
            except KeyboardInterrupt:
                if not talking:
                    raise


@app.command()
def score(
    text: TextArgument = None,
    file: Annotated[Path | None, typer.Option(help="A text file (UTF-8) instead of TEXT.")] = None,
    model: Model = None,
    device: Device = "auto",
    weights: CpuWeights = "auto",
    kv_cache: KvCache = "auto",
    as_json: AsJson = False,
) -> None:
    """The log-probability of each token of a text, its bits per byte and its perplexity."""
    if text is not None and file is not None:
        raise typer.BadParameter("give TEXT or --file, not both")
    words = text_of(text) if file is None else file_text(file)
    gpt = open_model(model, device, weights, kv_cache)
    with starting(), terminal.spinner("reading"):
        result = gpt.score(words)
    ids = [piece.id for piece in result.pieces]
    tokens = [gpt.tokenizer.token_text(id) for id in ids]
    known = [float(each) for each in result.log_probabilities]
    logprobs = [*[None] * (len(ids) - len(known)), *known]
    if as_json:
        rows = zip(ids, tokens, logprobs, strict=True)
        emit(
            {
                "tokens": [{"id": id, "token": token, "logprob": logprob} for id, token, logprob in rows],
                "bits_per_byte": finite(result.bits_per_byte),
                "perplexity": finite(result.perplexity),
            }
        )
        return
    terminal.surprisals(terminal.output(), tokens, logprobs)
    print(f"{result.bits_per_byte:.3f} bits per byte, perplexity {result.perplexity:.2f}")


def _server(url: str, model: str | None) -> Server:
    from nextword.web.client import Server

    return Server(url, model, os.environ.get("NEXTWORD_API_KEY"))


def _refuse_local_options(how: tuple[str, str, str], as_json: bool = False) -> None:
    """Refuse, as wrong usage, options that have no meaning when a server generates."""
    if (how, as_json) != (("auto", "auto", "auto"), False):
        own = "a server has its own --device, --weights and --kv-cache, and its own JSON"
        raise typer.BadParameter(own, param_hint="--server")


def _summary(done: Generation | RemoteGeneration, tokens: int) -> str:
    return f"{tokens} tokens, {done.tokens_per_second:.1f} tokens/s, ended by {done.finish_reason}, seed {done.seed}"


def _answer(conversation: Conversation | RemoteConversation, said: str, **how: Any) -> None:
    with terminal.spinner("reading"):
        answer = conversation.say(utf8(said), **how)
    _show(terminal.TextStream(), answer)
    if answer.finish_reason != "stop":
        terminal.note(f"(ended by {answer.finish_reason})")


def _show(stream: terminal.TextStream, generation: Generation | RemoteGeneration, chips: bool = False) -> None:
    try:
        for step in generation:
            stream.write(step.text, terminal.surprisal(step.probability) if chips else None)
    except BaseException:
        if stream.is_terminal:
            stream.write("\n")  # the next output begins a line
        raise
    stream.write("\n")


def _print_json(gpt: GPT, generation: Generation) -> None:
    for step in generation:
        token = gpt.tokenizer.token_text(step.token.id)
        assert generation.distribution is not None  # what the step was drawn from
        removed = [dataclasses.asdict(each) for each in generation.distribution.removed]
        emit({"token": token, "text": step.text, **step.token._asdict(), "removed": removed})
    emit(
        {
            "done": True,
            "text": generation.text,
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "tokens_per_second": generation.tokens_per_second,
            "hashes": gpt.hashes(),
        }
    )


def _sampling(given: dict[str, Any]) -> Sampling:
    from nextword.sample.settings import DEFAULT_SAMPLING

    return dataclasses.replace(DEFAULT_SAMPLING, **given)


def _limit(max_tokens: int | None) -> dict[str, int]:
    return {} if max_tokens is None else {"max_tokens": max_tokens}
