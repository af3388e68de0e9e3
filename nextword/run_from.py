"""Going on from weights that are there already: their tokens for the new text, and a recipe that keeps what they know.

Promises: the text is written in the model's own tokens and conversations by its own chat template; what is stored in
the end is the model's own shape and family, with the context that it had. Only the rows that a step reads are shorter,
where positions are rotated: a learned position that no row reached would be forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextword.corpus.documents import Document, Report, read_documents
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.model.architecture import Architecture, Rotary
from nextword.model.transformer import Transformer
from nextword.optimize.evaluate import evaluate
from nextword.optimize.preflight import measure_pace, peak_memory, pick_dtype
from nextword.optimize.recipe import Recipe
from nextword.parameters.families import FAMILIES
from nextword.parameters.families.family import Family
from nextword.parameters.open import Stored
from nextword.plan import PASSAGE, Budget, Corpus, Facts, Forecast, Tell, _facts, _Split, _tell_plan

BATCH, LONGEST_ROW, SHORTEST_ROW = 2048, 512, 8  # tokens
MATRIX_RATE, OTHER_RATE, WARMUP = 0.005, 0.001, 0.05
FULL_RATE_WIDTH = 256  # a wider model learns at lower rates, as 1 / width
_TRIAL_SECONDS = 5.0
_MEASURED = 4096  # tokens, before the first step


@dataclass(frozen=True)
class Origin:
    """What a run remembers of the model it goes on from.

    model           as the user named it
    hash            SHA-256 (hex) of the files of its weights
    family          `model_type` of its configuration
    context         how many positions it was made for
    stop_ids        the tokens that end its texts
    bits_per_byte   of it on a sample of the held-out text, before the first step
    """

    model: str
    hash: str
    family: str
    context: int
    stop_ids: Sequence[int]
    bits_per_byte: float | None

    def form(self, trained: Architecture) -> tuple[Family, Architecture, frozenset[int]]:
        """In which family, architecture and with which last tokens the trained weights are stored."""
        return FAMILIES[self.family], replace(trained, context=self.context), frozenset(self.stop_ids)


def weights_of(stored: Stored) -> dict[str, torch.Tensor]:
    """The stored weights in float32."""
    return {name: torch.from_numpy(tensor.dequantize()) for name, tensor in stored.tensors.items()}


def begin_id(tokenizer: Tokenizer) -> int:
    """The token that leads a text: the one made for it or, where there is none, the one that ends the text before.

    Raises InputError for a tokenizer with neither.
    """
    if tokenizer.bos_id is not None:
        return tokenizer.bos_id
    if not tokenizer.eos_ids:
        raise InputError("The model's tokenizer has no token that begins or ends a text; go on from another model.")
    return min(tokenizer.eos_ids)


def prepare_for(
    stored: Stored, paths: Sequence[str], holdout: Sequence[str], folder: Path, tell: Tell
) -> tuple[Corpus, Facts]:
    """As `nextword.plan.prepare`, in the tokens of a model that is there.

    Raises also InputError for conversations where the model has no chat template.
    """
    report = Report()
    reading = _Split(holdout, report)
    documents = reading.training(read_documents(paths, report=report, passage=None if holdout else PASSAGE))
    stored.tokenizer.save(folder)
    first = next(documents, None)
    if first is None and not holdout and reading.heldout:  # of a very small text, chance may hold out everything
        first = reading.heldout.pop()
    if first is None:
        raise InputError("No text is left to train on: all of it is in the held-out text; give more.")
    text = _write(stored, _chain(first, documents), folder / "corpus" / "train")
    heldout = _write(stored, reading.heldout, folder / "corpus" / "heldout") if reading.heldout else None
    for line in report.summary():
        tell(line)
    if heldout is None:
        tell("No text is held out, so nothing will be measured; give more text, or some with --holdout.")
    counts = asdict(report)
    facts = {
        "paths": list(paths),
        "holdout": list(holdout),
        **{name: counts[name] for name in ("documents", "bytes", "duplicates", "duplicate_bytes", "skipped")},
        "overlap": reading.overlap,
        "tokenizer": stored.tokenizer.hash,
        "train": _facts(text),
        "heldout": heldout and _facts(heldout),
    }
    return Corpus(stored.tokenizer, text, heldout), facts


def plan_from(
    stored: Stored,
    model: str,
    corpus: Corpus,
    budget: Budget,
    seed: int,
    device: str,
    began: float,
    tell: Tell,
) -> tuple[Recipe, Forecast, Origin]:
    """A recipe that goes on from the model in the time there is, what to expect, and what to remember of the model.

    `began` is the time.monotonic() from which minutes count. What the bits per byte will be is not forecast.
    Raises InputError for a text that is too short.
    """
    recipe = _recipe(stored.architecture, budget, len(corpus.text.tokens), seed, device)
    left = budget.seconds_left(time.monotonic() - began, 0.0)
    pace = measure_pace(recipe, corpus.text, device, min(_TRIAL_SECONDS, 0.05 * left) if left else _TRIAL_SECONDS)
    token_pace = pace / (recipe.rows * recipe.architecture.context) / 2  # of measuring: no backward pass
    final = min(budget.final_limit(token_pace), len(corpus.heldout.tokens)) if corpus.heldout else 0
    before = None
    if corpus.heldout is not None:
        model_now = Transformer.of(recipe.architecture, weights_of(stored)).to(device)
        before = evaluate(model_now, corpus.heldout, _MEASURED).bits_per_byte
        tell(f"{model}, as it is, needs {before:.4f} bits per byte on a sample of the held-out text.")
    left = budget.seconds_left(time.monotonic() - began, token_pace * final)
    if left is not None:
        recipe = replace(recipe, steps=max(1, int(left / pace)))
    seconds = time.monotonic() - began + recipe.steps * pace + token_pace * final
    forecast = Forecast(recipe.steps, None, max(seconds, 60 * (budget.minutes or 0)), peak_memory(device))
    _tell_plan(recipe, pace, forecast, len(corpus.text.tokens), tell)
    stops = sorted(stored.stop_ids)
    origin = Origin(model, stored.hash(), stored.family.model_type, stored.architecture.context, stops, before)
    return recipe, forecast, origin


def read_origin(numbers: Mapping[str, Any]) -> Origin | None:
    """What a checkpoint remembers; None for a run that began with nothing. Raises TypeError if it cannot be read."""
    return None if numbers.get("from") is None else Origin(**numbers["from"])


def _recipe(architecture: Architecture, budget: Budget, n_tokens: int, seed: int, device: str) -> Recipe:
    """Low rates: weights that know something are easily made to forget it."""
    share = min(1.0, FULL_RATE_WIDTH / architecture.width)
    row = architecture.context
    if isinstance(architecture.position, Rotary):
        row = min(row, LONGEST_ROW)
        while row >= n_tokens and row > SHORTEST_ROW:
            row //= 2
    return Recipe(
        replace(architecture, context=row),
        budget.steps or 1000,
        max(1, BATCH // row),
        seed=seed,
        dtype=pick_dtype(device),
        matrix_rate=MATRIX_RATE * share,
        other_rate=OTHER_RATE * share,
        warmup=WARMUP,
    )


def _write(stored: Stored, documents: Iterable[Document], folder: Path) -> Shards:
    encoded = encode_documents(stored.tokenizer, _writable(stored, documents), begin=begin_id(stored.tokenizer))
    sizes = np.zeros(stored.architecture.vocab, np.uint16)  # an embedding may have more rows than there are tokens
    known = token_sizes(stored.tokenizer)
    sizes[: len(known)] = known
    return write_shards(folder, encoded, token_bytes=sizes)


def _writable(stored: Stored, documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document.messages is not None and stored.tokenizer.chat_template is None:
            raise InputError(
                f"{document.source}:{document.line} is a conversation, but {stored.path.name} has no chat template to "
                "write it with; go on from a model that has one, or train without --from."
            )
        yield document


def _chain(first: Document, rest: Iterable[Document]) -> Iterator[Document]:
    yield first
    yield from rest
