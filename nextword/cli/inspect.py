"""What a model learned: from which pairs of words, when, what changed, and along which paths it acts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

    from nextword.encode.tokenizer import Tokenizer
    from nextword.model.architecture import Architecture
    from nextword.trace.logit.graph import Graph, Node
    from nextword.trace.text.history import History
    from nextword.trace.weights.bigrams import Bigram, TokenText

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


@app.command()
def history(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run; RUN@STEP: its history up to there.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What comes before.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, with its space.")],
    heads: Annotated[
        bool, typer.Option("--heads", help="Score what kind of head each is, at every checkpoint.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """When a run learned a token: its log p at every checkpoint, and what was read when it rose most."""
    from nextword.parameters.run_folder import checkpoint_named
    from nextword.trace.text.history import trace_history
    from nextword.trace.text.indexed import open_indexed, training_order

    named = None if Path(run).exists() else checkpoint_named(run)
    folder, last = (Path(named[0]), named[1]) if named else (Path(run), None)
    order, _ = training_order(folder)
    text = open_indexed(folder, spinner=terminal.busy)
    tokenizer = text.tokenizer
    ids = tokenizer.encode_prompt(utf8(prompt))
    with terminal.busy("reading the checkpoints"):
        found = trace_history(
            folder, ids, tokenizer.encode_one(utf8(token)), text, order, roles=heads, begin=tokenizer.bos_id, last=last
        )
    if as_json:
        emit(found.to_json(tokenizer))
    else:
        _tell_history(found, tokenizer)


_SHOWN = 5  # sightings


def _tell_history(found: History, tokenizer: Tokenizer) -> None:
    console = terminal.output()
    lowest = min(moment.log_probability for moment in found.moments)
    console.print(
        Line(f"{'step':>9}  {'log p':>7}  " + "".join(f"{part:>10}" for part in found.moments[0].parts), "dim")
    )
    for moment in found.moments:
        learned = found.learned is not None and moment.step == found.learned.by
        row = f"{moment.step:9,}  {moment.log_probability:7.2f}  "
        row += "".join(f"{share:+10.2f}" for share in moment.parts.values())
        length = round(20 * (1 - moment.log_probability / lowest)) if lowest < 0 else 0
        row += "  " + "#" * length + (" <- learned" if learned else "")
        console.print(Line(row, "bold" if learned else ""), soft_wrap=True)
        if moment.roles is not None:
            best = []
            for name in ("previous", "duplicate", "induction", "first"):
                scores = getattr(moment.roles, name)
                layer, head = divmod(int(scores.argmax()), scores.shape[1])
                best.append(f"{name} {layer}.{head} {scores[layer, head]:.2f}")
            console.print(Line(" " * 11 + ", ".join(best), "dim"), soft_wrap=True)
    if found.learned is None:
        print("the run did not learn this token here: its probability never doubled")
        return
    when = f"between steps {found.learned.after:,} and {found.learned.by:,}"
    print(f"learned {when}: log p rose by {found.learned.rise:.2f}, {found.learned.share:.0%} of all its rises")
    if found.read is None:
        print("the prompt's last token and this one were not read side by side then")
        return
    passage = terminal.visible(tokenizer.decode(found.read.passage))
    print(f"read then {found.read.times:,} times: {passage} (it stands in the text {found.read.count:,} times)")
    for sighting in found.read.sightings[:_SHOWN]:
        where = f"  step {sighting.step + 1:,}, {sighting.place.source} line {sighting.place.line}: "
        console.print(Line.assemble((printable(where), "dim"), terminal.visible(sighting.quote)), soft_wrap=True)


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
        found = attribution_graph(gpt.reference_model, ids, quantity, count=nodes, grain=grain.value)
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
        words = printable(_words(node, found, decode_token))
        console.print(Line.assemble((f"{influence:+8.2f}  ", "bold"), words), soft_wrap=True)
        flows = [(flow, writer) for (writer, reader), flow in found.edges.items() if reader == node]
        for flow, writer in sorted(flows, key=lambda pair: -abs(pair[0]))[:_FROM]:
            line = f"{'':10}{flow:+8.2f}  from {printable(_words(writer, found, decode_token))}"
            console.print(Line(line, "dim"), soft_wrap=True)


def _words(node: Node, found: Graph, decode_token: TokenText) -> str:
    """A node as a phrase."""
    at = f"{decode_token(found.ids[node.position])!r} (position {node.position})"
    match node.kind:
        case "token":
            return f"the token {at}"
        case "position":
            return f"the vector of position {node.position}"
        case "bias":
            return f"the bias {node.name} at {at}"
        case "read":
            assert node.source is not None
            source = f"{decode_token(found.ids[node.source])!r} (position {node.source})"
            return f"head {node.layer}.{node.head} from {source} to {at}"
        case "mlp":
            return f"layer {node.layer}'s MLP at {at}"
        case "neuron":
            return f"neuron {node.layer}.{node.neuron} at {at}"
    return "the logit"
