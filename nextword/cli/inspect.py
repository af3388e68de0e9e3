"""What a model has learned: bigrams, paths to a logit, single heads and neurons, the difference between two models."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text as Line

from nextword.base.settings import settings_of
from nextword.base.text import printable
from nextword.cli import terminal
from nextword.cli.arguments import AsJson, Contrast, Device, Model, TextArgument, text_of, utf8
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model
from nextword.errors import InputError
from nextword.trace.settings import ExplainSettings, Granularity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nextword.base.types import TokenText
    from nextword.encode.tokenizer import Tokenizer
    from nextword.model.architecture import Architecture
    from nextword.trace.logit.graph import Graph
    from nextword.trace.weights.bigrams import Bigram

Folder = Annotated[
    Path | None, typer.Option("--text", metavar="FOLDER", help="A text that `nextword index` made; else the run's own.")
]


@app.command()
def pairs(
    word: Annotated[str, typer.Argument(metavar="WORD", help="The first word.")],
    seconds: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="WORD", help="A second word, or several; else the leading ones."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="More second words.")] = None,
    prompt: Annotated[
        str | None, typer.Option(show_default="the word alone", help="A text that ends with the first word.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="The number of leading second words to show, by each column.")] = 5,
    model: Model = None,
    text: Folder = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """How one word follows another: in the training text, in the weights alone, and in the model."""
    from nextword.trace.weights.bigrams import bigrams, top_bigrams, word_ids

    if more and not seconds:
        raise typer.BadParameter("give second words after --with")
    given = [utf8(second) for second in [*(seconds or []), *(more or [])]]
    gpt = open_model(model, device)
    first, indexed = word_ids(gpt.tokenizer, utf8(word)), gpt.indexed(text, terminal.spinner)
    index = None if indexed is None else indexed.index
    ids = _prompt_ids(prompt, word, first, gpt.tokenizer)
    decode_token, a = gpt.tokenizer.token_text, gpt.architecture
    payload: dict[str, Any] = {
        "first": {"ids": first, "tokens": [decode_token(id) for id in first]},
        "prompt": {"ids": ids},
        "vocab": a.vocab,
        "tied": a.tied,
    }
    columns: dict[str, Sequence[Bigram] | None] = {}
    found: Sequence[Bigram] = []
    if given:
        tokens = [word_ids(gpt.tokenizer, second) for second in given]
        found = bigrams(gpt.reference_model, first, tokens, ids, index)
        payload["bigrams"] = _rows(found, decode_token)
    else:
        best = top_bigrams(gpt.reference_model, first, ids, index, count=top, n_tokens=gpt.tokenizer.vocab_size)
        columns = {name: getattr(best, name) for name in _COLUMNS}
        payload["top"] = {name: None if rows is None else _rows(rows, decode_token) for name, rows in columns.items()}
    if as_json:
        emit(payload)
        return
    if given:
        _print_table(found, decode_token)
    else:
        _print_columns(columns, decode_token)
    _explain_numbers(a)
    _explain_tokens(first, found, decode_token)


def _prompt_ids(prompt: str | None, word: str, first: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids of the prompt, by default of the first word alone. Raises InputError if it does not end with the word."""
    if prompt is None:
        return [*tokenizer.encode("", begin=True), *first]
    if not utf8(prompt).endswith(word.strip()):
        raise InputError(f"The prompt does not end with {word.strip()!r}; end it with the first word.")
    return tokenizer.encode(prompt, begin=True)


def _rows(rows: Sequence[Bigram], decode_token: TokenText) -> list[dict[str, Any]]:
    return [bigram.to_json(decode_token) for bigram in rows]


_COLUMNS = {
    "frequency": "the text",
    "weights": "the weights alone",
    "lift": "lift, what this first word adds in the weights alone",
    "probability": "the model",
}


def _print_columns(columns: Mapping[str, Sequence[Bigram] | None], decode_token: TokenText) -> None:
    """Print a table for each number that second words can lead by."""
    for name, rows in columns.items():
        if rows is None:
            terminal.note("no text to count in; give one with --text FOLDER")
            continue
        terminal.output().print(Line(f"most by {_COLUMNS[name]}", "dim"))
        _print_table(rows, decode_token)


def _print_table(rows: Sequence[Bigram], decode_token: TokenText) -> None:
    """Print a line for each pair; a word is shown as its tokens."""
    console, names = terminal.output(), [" ".join(terminal.visible(decode_token(id)) for id in row.ids) for row in rows]
    width = max([6, *map(len, names)])
    titles = f"{'text':>9}  {'weights':>9} {'rank':>8}  {'lift':>9} {'rank':>8}  {'model':>9}"
    console.print(Line(f"{'':<{width}}  {titles}", "dim"), soft_wrap=True)
    for name, row in zip(names, rows, strict=True):
        line = Line.assemble((f"{name:<{width}}", "bold"), f"  {_percent(row.frequency):>9}")
        for logit, rank in ((row.logit, row.rank), (row.lift, row.lift_rank)):
            line.append(f"  {logit:+9.2f}").append(f" {rank:8,}", "dim")
        line.append(f"  {_percent(row.probability):>9}")
        if row.count is not None:
            line.append(f"  {row.count:,} of {row.of:,} times", "dim")
        console.print(line, soft_wrap=True)


def _percent(value: float | None) -> str:
    """A fraction as a percentage, or as a power of ten if that would round to 0; "-" for None."""
    return "-" if value is None else f"{value:.2%}" if value >= 1e-4 or not value else f"{value:.0e}"


def _explain_numbers(a: Architecture) -> None:
    """Print the meaning of the columns of the weights."""
    terminal.note(
        "weights: by embedding and unembedding alone, without context, a word's logit above the mean of all "
        f"{a.vocab:,} tokens, and its rank among them; most of it is the same after any word. "
        "lift: this logit less that after the average word"
    )
    if a.tied:
        terminal.note(
            "this model has one table for both, so two words score nearly alike in either order: "
            "a high lift means words that are alike; attention and MLPs alone tell which follows which"
        )


def _explain_tokens(first: Sequence[int], rows: Sequence[Bigram], decode_token: TokenText) -> None:
    """Print which tokens stand for words of several tokens."""
    if len(first) > 1:
        terminal.note(
            f"the first word is {len(first)} tokens; "
            f"in the weights its last, {decode_token(first[-1])!r}, stands for it"
        )
    for row in rows:
        if len(row.ids) > 1:
            word = "".join(map(decode_token, row.ids))
            terminal.note(
                f"{word!r} is {len(row.ids)} tokens; "
                f"in the weights its first, {decode_token(row.ids[0])!r}, stands for it, "
                "and the model's probability is the product along them"
            )


ModelOrStep = Annotated[str, typer.Argument(help="A model, or RUN@STEP for a checkpoint of a run.")]


@app.command()
def diff(
    before: ModelOrStep,
    after: ModelOrStep,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text before the token.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, with its space.")],
    top: Annotated[int, typer.Option(min=1, help="The number of components to show.")] = 12,
    granularity: Annotated[Granularity, typer.Option(help=settings_of(ExplainSettings)["granularity"].doc)] = "head",
    as_json: AsJson = False,
) -> None:
    """How a token's logit differs between two models of one shape, as an exact sum over components."""
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.diff import compare_models

    first, second = open_model(utf8(before)), open_model(utf8(after))
    tokenizer = first.tokenizer
    if tokenizer.hash != second.tokenizer.hash:
        raise InputError("The models have different tokenizers; compare models that cut text alike.")
    ids, id = tokenizer.encode_prompt(utf8(prompt)), tokenizer.encode_one(utf8(token))
    found = compare_models(first.reference_model, second.reference_model, ids, Quantity(id))
    payload = found.to_json(tokenizer.token_text, top, granularity)
    if as_json:
        emit({"models": [before, after], **payload})
        return
    changes, console = payload["change"], terminal.output()
    console.print(Line(f"{'before':>9} {'after':>9} {'change':>9}", "dim"))
    console.print(_change(*found.log_probabilities, f"log p of {token!r}"), soft_wrap=True)
    totals = payload["before"]["total"], payload["after"]["total"]
    console.print(_change(*totals, "its logit, the sum of"), soft_wrap=True)
    for part in changes["parts"]:
        parts = payload["before"]["parts"][part], payload["after"]["parts"][part]
        console.print(_change(*parts, part), soft_wrap=True)
    console.print(Line(f"remainder of the change {changes['remainder']:+.0e}; its largest components:", "dim"))
    for component in payload["components"]:
        console.print(_change(component["before"], component["after"], component["words"]), soft_wrap=True)


def _change(before: float, after: float, name: str) -> Line:
    """A line of two numbers, their difference and a name."""
    numbers = f"{before:+9.3f} {after:+9.3f} {after - before:+9.3f}"
    return Line.assemble(numbers, "  ", (printable(name), "bold"))


class MlpNodes(StrEnum):
    """The nodes of an MLP in a graph: one at each position, or one for each neuron."""

    mlp = "mlp"
    neuron = "neuron"


@app.command()
def graph(
    prompt: TextArgument = None,
    token: Annotated[
        str | None, typer.Option(show_default="the most probable", help="The token to trace, with its space.")
    ] = None,
    contrast: Contrast = None,
    model: Model = None,
    nodes: Annotated[int, typer.Option(min=1, help="The number of nodes to keep, by influence.")] = 20,
    granularity: Annotated[MlpNodes, typer.Option(help="The nodes of an MLP: one, or its neurons.")] = MlpNodes.mlp,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The paths that a token's logit came along, with attention patterns, norm scales and gates held fixed."""
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.graph import attribution_graph

    text, gpt = text_of(prompt), open_model(model, device)
    ids = gpt.tokenizer.encode_prompt(text)
    if token is not None:
        id = gpt.tokenizer.encode_one(utf8(token))
    else:
        id = int(gpt.predict(ids).distribution.logits[: gpt.tokenizer.vocab_size].argmax())
    quantity = Quantity(id, "expected" if contrast is None else gpt.tokenizer.encode_one(utf8(contrast)))
    with terminal.spinner("tracing"):
        found = attribution_graph(gpt.reference_model, ids, quantity, count=nodes, granularity=granularity.value)
    if as_json:
        emit(found.to_json(gpt.tokenizer.token_text))
    else:
        _print_graph(found, gpt.tokenizer.token_text)


_EDGES = 3  # edges: printed into each node


def _print_graph(found: Graph, decode_token: TokenText) -> None:
    """Print the nodes by influence, under each the largest edges into it."""
    console, quantity = terminal.output(), found.quantity
    above = repr(decode_token(quantity.contrast)) if isinstance(quantity.contrast, int) else "what the model expected"
    title = f"the logit of {decode_token(quantity.token)!r} above {above}: {found.total:+.2f}"
    console.print(Line(printable(title), "bold"), soft_wrap=True)
    console.print(Line(f"remainder of all inputs {found.remainder:+.0e}", "dim"))
    for node, influence in found.influences.items():
        words = printable(found.words(node, decode_token))
        console.print(Line.assemble((f"{influence:+8.2f}  ", "bold"), words), soft_wrap=True)
        flows = [(flow, writer) for (writer, reader), flow in found.edges.items() if reader == node]
        for flow, writer in sorted(flows, key=lambda pair: -abs(pair[0]))[:_EDGES]:
            line = f"{'':10}{flow:+8.2f}  from {printable(found.words(writer, decode_token))}"
            console.print(Line(line, "dim"), soft_wrap=True)


class Unit(StrEnum):
    """What can be inspected by itself."""

    head = "head"
    neuron = "neuron"


@app.command()
def inspect(
    kind: Annotated[Unit, typer.Argument(help="head or neuron.")],
    number: Annotated[str, typer.Argument(metavar="LAYER.NUMBER", help="Its name, as explain prints it: 3.5.")],
    on: Annotated[str | None, typer.Option(metavar="TOKEN", help="Show what a head does with this token.")] = None,
    top: Annotated[int, typer.Option(min=1, help="The number of words to show of each kind.")] = 8,
    model: Model = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What a head or a neuron reads and writes by its weights alone, in words, and what a head attends to."""
    from nextword.trace.weights.units import inspect_head, inspect_neuron

    if (found := re.fullmatch(r"(\d{1,6})\.(\d{1,6})", number, re.ASCII)) is None:
        raise typer.BadParameter(f"{number!r} is not LAYER.NUMBER; write 3.5 for number 5 of layer 3, both from 0")
    if on is not None and kind is Unit.neuron:
        raise typer.BadParameter("--on TOKEN is for heads")
    layer, unit = map(int, found.groups())
    gpt = open_model(model, device)
    token = None if on is None else gpt.tokenizer.encode_one(utf8(on))
    with terminal.spinner("reading the weights"):
        if kind is Unit.neuron:
            payload = inspect_neuron(gpt.reference_model, gpt.tokenizer, layer, unit, top)
        else:
            payload = inspect_head(gpt.reference_model, gpt.tokenizer, layer, unit, token, top)
    if as_json:
        emit(payload)
    elif kind is Unit.neuron:
        _print_words(payload, ("reads", "promotes", "suppresses"))
    else:
        _print_head(payload)


def _print_head(payload: dict[str, Any]) -> None:
    """Print a head's roles, its directions, and what it does with a token."""
    console = terminal.output()
    if payload["roles"] is not None:
        roles = ", ".join(f"{name} {score:.2f}" for name, score in payload["roles"].items())
        console.print(Line(f"of its attention, on random tokens that repeat: {roles}"), soft_wrap=True)
    for number, direction in enumerate(payload["directions"], 1):
        console.print(Line(f"direction {number}, strength {direction['strength']:.2f}", "bold"), soft_wrap=True)
        _print_words(direction, ("reads", "promotes", "suppresses"))
    if (found := payload["on"]) is not None:
        name = printable(repr(found["token"]["token"]))
        console.print(Line(f"at {name} it would attend to; of {name} it writes", "bold"), soft_wrap=True)
        _print_words(found, ("attends", "promotes", "suppresses"))


def _print_words(payload: dict[str, Any], names: tuple[str, ...]) -> None:
    """Print a line of words for each of `names`, strongest first."""
    for name in names:
        words = "  ".join(terminal.visible(row["token"]) for row in payload[name])
        terminal.output().print(Line.assemble((f"  {name:<12}", "dim"), words), soft_wrap=True)
