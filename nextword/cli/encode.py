"""Text to token ids and back."""

from __future__ import annotations

from typing import Annotated

import typer

from nextword.cli import terminal
from nextword.cli.arguments import (
    AsJson,
    Encoding,
    Model,
    TextArgument,
    standard_input,
    text_of,
    token_ids,
)
from nextword.cli.root import app
from nextword.cli.shared import emit, tokenizer_of


@app.command()
def encode(text: TextArgument = None, encoding: Encoding = None, model: Model = None, as_json: AsJson = False) -> None:
    """Text to token ids. In a pipe, the ids alone."""
    words, tokenizer = text_of(text), tokenizer_of(encoding, model)
    ids = tokenizer.encode(words)
    tokens = [tokenizer.token_text(id) for id in ids]
    console = terminal.output()
    if as_json:
        emit({"ids": ids, "tokens": tokens})
    elif console.is_terminal:
        terminal.chips(console, tokens, [str(id) for id in ids], terminal.alternating(len(ids)))
        terminal.note(f"{len(ids)} tokens")
    else:
        print(*ids)


@app.command()
def decode(
    ids: Annotated[list[int] | None, typer.Argument(show_default=False, help="Token ids; none reads stdin.")] = None,
    encoding: Encoding = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Token ids to text."""
    text = tokenizer_of(encoding, model).decode(ids or token_ids(standard_input("IDS")))
    if as_json:
        emit({"text": text})
    else:
        terminal.TextStream().write(text + "\n")
