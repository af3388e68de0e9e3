"""A part of a model by itself."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text as Line

from nextword.base.text import printable
from nextword.cli import terminal
from nextword.cli.arguments import AsJson, Device, Model, utf8
from nextword.cli.root import app
from nextword.cli.shared import emit, open_model


class Kind(StrEnum):
    """What can be looked at by itself."""

    head = "head"
    neuron = "neuron"


@app.command()
def part(
    kind: Annotated[Kind, typer.Argument(help="head or neuron.")],
    number: Annotated[str, typer.Argument(metavar="LAYER.NUMBER", help="Which, as explain names it: 3.5.")],
    on: Annotated[str | None, typer.Option(metavar="TOKEN", help="What a head does with this token.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many words to show of each kind.")] = 8,
    model: Model = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """What a head or a neuron says by its weights alone, in words of the vocabulary, and what a head attends to."""
    from nextword.trace.weights.part import head_part, neuron_part

    if (found := re.fullmatch(r"(\d{1,6})\.(\d{1,6})", number, re.ASCII)) is None:
        raise typer.BadParameter(f"{number!r} is no LAYER.NUMBER; write 3.5 for number 5 of layer 3, both from 0")
    if on is not None and kind is Kind.neuron:
        raise typer.BadParameter("--on TOKEN is for heads")
    layer, unit = map(int, found.groups())
    gpt = open_model(model, device)
    token = None if on is None else gpt.tokenizer.encode_one(utf8(on))
    with terminal.busy("reading the weights"):
        if kind is Kind.neuron:
            told = neuron_part(gpt.reference_model, gpt.tokenizer, layer, unit, top)
        else:
            told = head_part(gpt.reference_model, gpt.tokenizer, layer, unit, token, top)
    if as_json:
        emit(told)
    elif kind is Kind.neuron:
        _words(told, ("reads", "promotes", "suppresses"))
    else:
        _tell_head(told)


def _tell_head(told: dict[str, Any]) -> None:
    console = terminal.output()
    if told["roles"] is not None:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in told["roles"].items())
        console.print(Line(f"of its attention, on random tokens that repeat: {shares}"), soft_wrap=True)
    for number, direction in enumerate(told["directions"], 1):
        console.print(Line(f"direction {number}, strength {direction['strength']:.2f}", "bold"), soft_wrap=True)
        _words(direction, ("reads", "promotes", "suppresses"))
    if (found := told["on"]) is not None:
        name = printable(repr(found["token"]["token"]))
        console.print(Line(f"at {name} it would attend to; of {name} it says", "bold"), soft_wrap=True)
        _words(found, ("attends", "promotes", "suppresses"))


def _words(told: dict[str, Any], names: tuple[str, ...]) -> None:
    """A line of words for each of `names`, strongest first."""
    for name in names:
        words = "  ".join(terminal.visible(row["token"]) for row in told[name])
        terminal.output().print(Line.assemble((f"  {name:<12}", "dim"), words), soft_wrap=True)
