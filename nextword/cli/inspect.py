"""What a model has learned: bigrams, heads and neurons by themselves, paths to a logit, what differs between two."""

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
from nextword.cli.arguments import AsJson, Device, Model, Text, text_of, utf8
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model
from nextword.errors import InputError
from nextword.trace.settings import ExplainSettings, Granularity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextword.base.types import TokenText
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
        list[str] | None, typer.Option("--with", metavar="WORD", help="A second word, or several; else the likeliest.")
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...", help="More second words.")] = None,
    prompt: Annotated[
        str | None, typer.Option(show_default="the word alone", help="A text that ends with the first word.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the likeliest to show, by each column.")] = 5,
    model: Model = None,
    text: Folder = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """How one word follows another: in the training text, in the weights alone, and in the model."""
    from nextword.trace.weights.bigrams import bigrams as find_bigrams
    from nextword.trace.weights.bigrams import top_bigrams, word_ids

    given = [utf8(second) for second in [*(seconds or []), *(more or [])]]
    if more and not seconds:
        raise typer.BadParameter("give second words after --with")
    gpt = open_model(model, device)
    first, indexed = word_ids(gpt.tokenizer, utf8(word)), gpt.indexed(text, terminal.busy)
    index = None if indexed is None else indexed.index
    if prompt is None:
        ids = [*gpt.tokenizer.encode("", begin=True), *first]
    elif utf8(prompt).endswith(word.strip()):
        ids = gpt.tokenizer.encode(prompt, begin=True)
    else:
        raise InputError(f"The prompt does not end with {word.strip()!r}; end it with the first word.")
    decode_token = gpt.tokenizer.token_text
    a = gpt.architecture
    facts = {
        "first": {"ids": first, "tokens": [decode_token(id) for id in first]},
        "prompt": {"ids": ids},
        "vocab": a.vocab,
        "tied": a.tied,
    }
    if given:
        tokens = [word_ids(gpt.tokenizer, second) for second in given]
        found = find_bigrams(gpt.reference_model, first, tokens, ids, index)
        if as_json:
            emit({**facts, "bigrams": [bigram.to_json(decode_token) for bigram in found]})
        else:
            _table(found, decode_token)
            _explain_numbers(a)
            _explain_tokens(first, found, decode_token)
        return
    best = top_bigrams(gpt.reference_model, first, ids, index, count=top, n_tokens=gpt.tokenizer.vocab_size)
    columns = {name: getattr(best, name) for name in _COLUMNS}
    if as_json:
        told = {
            name: None if rows is None else [bigram.to_json(decode_token) for bigram in rows]
            for name, rows in columns.items()
        }
        emit({**facts, "top": told})
        return
    for name, rows in columns.items():
        if rows is None:
            terminal.note("no text to count in; give one with --text FOLDER")
            continue
        terminal.output().print(Line(f"most by {_COLUMNS[name]}", "dim"))
        _table(rows, decode_token)
    _explain_numbers(a)
    _explain_tokens(first, [], decode_token)


_COLUMNS = {
    "frequency": "the text",
    "weights": "the weights alone",
    "lift": "lift, what this first word adds in the weights alone",
    "probability": "the model",
}


def _table(rows: Sequence[Bigram], decode_token: TokenText) -> None:
    """A line for each pair; a word is shown as its tokens."""
    console, names = terminal.output(), [" ".join(terminal.visible(decode_token(id)) for id in row.ids) for row in rows]
    width = max([6, *map(len, names)])
    titles = f"{'text':>9}  {'weights':>9} {'rank':>8}  {'lift':>9} {'rank':>8}  {'model':>9}"
    console.print(Line(f"{'':<{width}}  {titles}", "dim"), soft_wrap=True)
    for name, row in zip(names, rows, strict=True):
        told = Line.assemble((f"{name:<{width}}", "bold"), f"  {_share(row.frequency):>9}")
        for logit, rank in ((row.logit, row.rank), (row.lift, row.lift_rank)):
            told.append(f"  {logit:+9.2f}").append(f" {rank:8,}", "dim")
        told.append(f"  {_share(row.probability):>9}")
        if row.count is not None:
            told.append(f"  {row.count:,} of {row.of:,} times", "dim")
        console.print(told, soft_wrap=True)


def _share(share: float | None) -> str:
    """As a percentage, with its size where that would round to nothing; "-" for what is not known."""
    return "-" if share is None else f"{share:.2%}" if share >= 1e-4 or not share else f"{share:.0e}"


def _explain_numbers(a: Architecture) -> None:
    """What the columns of the weights mean."""
    terminal.note(
        "weights: what embedding and unembedding alone, without context, give a word: its logit above the mean of all "
        f"{a.vocab:,} tokens, and its rank among them; most of it is the same after any word. "
        "lift: how much more than after the average word"
    )
    if a.tied:
        terminal.note(
            "this model has one table for both, so two words score nearly alike in either order: "
            "a high lift means words that are alike, and what follows what is left to attention and MLPs"
        )


def _explain_tokens(first: Sequence[int], rows: Sequence[Bigram], decode_token: TokenText) -> None:
    """Which tokens stand for words of several."""
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


Side = Annotated[str, typer.Argument(help="A model, or RUN@STEP for a checkpoint of a run.")]


@app.command()
def diff(
    before: Side,
    after: Side,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What comes before.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, with its space.")],
    top: Annotated[int, typer.Option(min=1, help="How many causes to show.")] = 12,
    granularity: Annotated[Granularity, typer.Option(help=settings_of(ExplainSettings)["granularity"].doc)] = "head",
    as_json: AsJson = False,
) -> None:
    """How a token's logit differs between two models of one shape, as an exact sum over its causes."""
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.diff import compare_models

    first, second = open_model(utf8(before)), open_model(utf8(after))
    tokenizer = first.tokenizer
    if tokenizer.hash != second.tokenizer.hash:
        raise InputError("The models have different tokenizers; compare models that cut text alike.")
    ids, id = tokenizer.encode_prompt(utf8(prompt)), tokenizer.encode_one(utf8(token))
    found = compare_models(first.reference_model, second.reference_model, ids, Quantity(id))
    told = found.to_json(tokenizer.token_text, top, granularity)
    if as_json:
        emit({"models": [before, after], **told})
        return
    changes, console = told["change"], terminal.output()
    console.print(Line(f"{'before':>9} {'after':>9} {'change':>9}", "dim"))
    console.print(_three(*found.log_probabilities, f"log p of {token!r}"), soft_wrap=True)
    console.print(_three(told["before"]["total"], told["after"]["total"], "its logit, the sum of"), soft_wrap=True)
    for part in changes["parts"]:
        console.print(_three(told["before"]["parts"][part], told["after"]["parts"][part], part), soft_wrap=True)
    console.print(Line(f"remainder of the change {changes['remainder']:+.0e}; its largest causes:", "dim"))
    for component in told["components"]:
        console.print(_three(component["before"], component["after"], component["words"]), soft_wrap=True)


def _three(before: float, after: float, name: str) -> Line:
    numbers = f"{before:+9.3f} {after:+9.3f} {after - before:+9.3f}"
    return Line.assemble(numbers, "  ", (printable(name), "bold"))


class Part(StrEnum):
    """What an MLP is in a graph: one node at each position, or each neuron one."""

    mlp = "mlp"
    neuron = "neuron"


@app.command()
def graph(
    prompt: Text = None,
    token: Annotated[
        str | None, typer.Option(show_default="the favourite", help="The token to trace, with its space.")
    ] = None,
    contrast: Annotated[str | None, typer.Option(help="A rival token; else what the model expected.")] = None,
    model: Model = None,
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes to keep, by influence.")] = 20,
    grain: Annotated[Part, typer.Option(help="What an MLP is: one node, or its neurons.")] = Part.mlp,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Along which paths a token's logit came about, with patterns, norm scales and gates held as they were."""
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.graph import attribution_graph

    text, gpt = text_of(prompt), open_model(model, device)
    ids = gpt.tokenizer.encode_prompt(text)
    if token is not None:
        id = gpt.tokenizer.encode_one(utf8(token))
    else:
        id = int(gpt.predict(ids).distribution.logits[: gpt.tokenizer.vocab_size].argmax())
    quantity = Quantity(id, "expected" if contrast is None else gpt.tokenizer.encode_one(utf8(contrast)))
    with terminal.busy("tracing"):
        found = attribution_graph(gpt.reference_model, ids, quantity, count=nodes, granularity=grain.value)
    if as_json:
        emit(found.to_json(gpt.tokenizer.token_text))
    else:
        _tell_graph(found, gpt.tokenizer.token_text)


_FROM = 3  # edges shown into each node


def _tell_graph(found: Graph, decode_token: TokenText) -> None:
    """The nodes by influence, under each what flows into it."""
    console, quantity = terminal.output(), found.quantity
    above = repr(decode_token(quantity.contrast)) if isinstance(quantity.contrast, int) else "what the model expected"
    told = f"the logit of {decode_token(quantity.token)!r} above {above}: {found.total:+.2f}"
    console.print(Line(printable(told), "bold"), soft_wrap=True)
    console.print(Line(f"remainder of all inputs {found.remainder:+.0e}", "dim"))
    for node, influence in found.influences.items():
        words = printable(found.words(node, decode_token))
        console.print(Line.assemble((f"{influence:+8.2f}  ", "bold"), words), soft_wrap=True)
        flows = [(flow, writer) for (writer, reader), flow in found.edges.items() if reader == node]
        for flow, writer in sorted(flows, key=lambda pair: -abs(pair[0]))[:_FROM]:
            line = f"{'':10}{flow:+8.2f}  from {printable(found.words(writer, decode_token))}"
            console.print(Line(line, "dim"), soft_wrap=True)


class Unit(StrEnum):
    """What can be inspected by itself."""

    head = "head"
    neuron = "neuron"


@app.command()
def inspect(
    kind: Annotated[Unit, typer.Argument(help="head or neuron.")],
    number: Annotated[str, typer.Argument(metavar="LAYER.NUMBER", help="Which, as explain names it: 3.5.")],
    on: Annotated[str | None, typer.Option(metavar="TOKEN", help="What a head does with this token.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many words to show of each kind.")] = 8,
    model: Model = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What a head or a neuron says by its weights alone, in words of the vocabulary, and what a head attends to."""
    from nextword.trace.weights.units import inspect_head, inspect_neuron

    if (found := re.fullmatch(r"(\d{1,6})\.(\d{1,6})", number, re.ASCII)) is None:
        raise typer.BadParameter(f"{number!r} is no LAYER.NUMBER; write 3.5 for number 5 of layer 3, both from 0")
    if on is not None and kind is Unit.neuron:
        raise typer.BadParameter("--on TOKEN is for heads")
    layer, unit = map(int, found.groups())
    gpt = open_model(model, device)
    token = None if on is None else gpt.tokenizer.encode_one(utf8(on))
    with terminal.busy("reading the weights"):
        if kind is Unit.neuron:
            told = inspect_neuron(gpt.reference_model, gpt.tokenizer, layer, unit, top)
        else:
            told = inspect_head(gpt.reference_model, gpt.tokenizer, layer, unit, token, top)
    if as_json:
        emit(told)
    elif kind is Unit.neuron:
        _print_words(told, ("reads", "promotes", "suppresses"))
    else:
        _tell_head(told)


def _tell_head(told: dict[str, Any]) -> None:
    console = terminal.output()
    if told["roles"] is not None:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in told["roles"].items())
        console.print(Line(f"of its attention, on random tokens that repeat: {shares}"), soft_wrap=True)
    for number, direction in enumerate(told["directions"], 1):
        console.print(Line(f"direction {number}, strength {direction['strength']:.2f}", "bold"), soft_wrap=True)
        _print_words(direction, ("reads", "promotes", "suppresses"))
    if (found := told["on"]) is not None:
        name = printable(repr(found["token"]["token"]))
        console.print(Line(f"at {name} it would attend to; of {name} it says", "bold"), soft_wrap=True)
        _print_words(found, ("attends", "promotes", "suppresses"))


def _print_words(told: dict[str, Any], names: tuple[str, ...]) -> None:
    """A line of words for each of `names`, strongest first."""
    for name in names:
        words = "  ".join(terminal.visible(row["token"]) for row in told[name])
        terminal.output().print(Line.assemble((f"  {name:<12}", "dim"), words), soft_wrap=True)
