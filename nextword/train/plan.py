"""Before a run: its text becomes tokens, and the time it has becomes a recipe.

Promises: no held-out document is trained on; the text is read once and need not fit into memory; what was planned
for a number of steps depends on the text and the machine alone, and what was planned for minutes also on how fast
its first steps were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nextword.corpus.document import WORLD
from nextword.corpus.documents import Document, Report, deduplicate, is_heldout, read_documents
from nextword.corpus.formats import Undecodable
from nextword.corpus.worlds import world
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, open_shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import InputError, SettingError
from nextword.optimize.bigrams import BYTES_PER_PAIR
from nextword.optimize.dropout import dropout_for
from nextword.optimize.forecast import FADING, forecast_bits_per_byte
from nextword.optimize.preflight import (
    FEWEST_LAYERS,
    measure_pace,
    n_layers_for,
    operations_per_step,
    pays_to_compile,
    peak_memory,
    pick_dtype,
    rows_for,
    shape,
)
from nextword.optimize.recipe import Recipe
from nextword.parameters.open import Stored

Tell = Callable[[str], None]  # of what is to be kept in sight
Doing = Callable[[str], None]  # of what is being done just now
Facts = dict[str, Any]

HELDOUT_SHARE = 0.02
PASSAGE = 4096  # characters: text files are cut into passages, so that a part of one can be held out
FINAL_LIMIT = 262_144  # tokens of held-out text that are measured at the end, at most
_TOKENIZER_TEXT = 16_000_000  # characters that the tokenizer is trained on
_VOCABULARIES = ((2_000_000, 1024), (10_000_000, 2048), (50_000_000, 4096))  # below so many bytes of text
_LARGEST_VOCABULARY = 8192
_USUAL_DEPTH = 4  # of a run of so many steps
_TRIAL_SECONDS, _TRIAL_SHARE = 1.5, 0.01  # at most, of the time that is left
_WARMUP_FROM_PAIRS = 0.2  # full rates at once would shake the pairs out of the weights again
_TELL_EVERY = 0.25  # seconds
_SAVING = 1.0  # seconds that are kept for writing the model
MEASURING = 0.05  # of the time, at most, for measuring on the way


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` steps, or `minutes` with everything counted; and no longer than until the held-out
    text is predicted in `until` bits per byte. Raises SettingError.
    """

    minutes: float | None = None
    steps: int | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingError("Say how long to train: --minutes or --steps, one of them.")
        for name, value in asdict(self).items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingError(f"--{name} must be a positive number, not {value}.")

    def seconds_left(self, elapsed: float, final_measurement: float) -> float | None:
        """Seconds for training when so many have passed and the last measurement takes so many; None: no limit."""
        return None if self.minutes is None else 60 * self.minutes - elapsed - final_measurement - _SAVING

    def final_limit(self, token_seconds: float) -> int:
        """Tokens to measure at the end where each takes so long: many, but little of the time."""
        if self.minutes is None:
            return FINAL_LIMIT
        return min(FINAL_LIMIT, max(8192, int(0.04 * 60 * self.minutes / token_seconds)))


@dataclass(frozen=True)
class Corpus:
    """A text on disk, ready to be trained on."""

    tokenizer: Tokenizer
    text: Shards
    heldout: Shards | None

    def stated_hashes(self) -> dict[str, str | None]:
        """What the files were when they were written, by what a user calls them."""
        return self._hashes(lambda shards: shards.hash)

    def hashes(self) -> dict[str, str | None]:
        """The same of what the files hold now: every byte is read."""
        return self._hashes(Shards.content_hash)

    def _hashes(self, of: Callable[[Shards], str]) -> dict[str, str | None]:
        heldout = None if self.heldout is None else of(self.heldout)
        return {"text": of(self.text), "held-out text": heldout, "tokenizer": self.tokenizer.hash}


def open_corpus(folder: Path) -> Corpus:
    """Open what `prepare` wrote. Raises ModelNotFound, CorruptFile, TokenizerError."""
    heldout = folder / "corpus" / "heldout"
    return Corpus(
        Tokenizer.from_folder(folder),
        open_shards(folder / "corpus" / "train"),
        open_shards(heldout) if heldout.exists() else None,
    )


def prepare(
    paths: Sequence[str],
    holdout: Sequence[str],
    folder: Path,
    tell: Tell,
    *,
    errors: Undecodable = "skip",
    stored: Stored | None = None,
    doing: Doing = lambda what: None,
) -> tuple[Corpus, Facts]:
    """Read the text, hold out a part of it, learn a tokenizer and write the tokens of both below `folder`.

    errors: what becomes of text that is not UTF-8 (`read_documents`). stored: a model whose tokenizer is used instead.
    Also returns, as JSON can hold it, where the text came from. Held out are the documents of the paths
    `holdout`, or about a fiftieth of all. Raises InputError for paths that cannot be read, for a corpus
    without text and for conversations where the model has no chat template, NoDiskRoom, OSError.
    """
    report = Report()
    reading = _Split(holdout, report, errors)
    passage = None if holdout else PASSAGE
    documents = reading.training(read_documents(paths, report=report, errors=errors, passage=passage))
    documents = _followed(documents, report, doing)
    first: list[Document] = []
    size = 0
    for document in documents:
        first.append(document)
        size += document.n_bytes
        if size >= _VOCABULARIES[-1][0]:
            break
    if not first and not holdout:  # of a very small text, chance may hold out everything
        first, reading.heldout = reading.heldout, []
    if not first:
        raise InputError("No text is left to train on: all of it is in the held-out text; give more.")
    if stored is None:
        chat = any(each.messages is not None for each in first)
        doing(f"Learning a tokenizer from {min(size, _TOKENIZER_TEXT) / 1e6:,.1f} MB of the text.")
        tokenizer = train_bpe(_beginning(first), vocabulary(size), chat=chat)
        vocab = tokenizer.vocab_size
    else:
        tokenizer, vocab = stored.tokenizer, stored.architecture.vocab
    tokenizer.save(folder)
    text = _write(tokenizer, vocab, chain(first, documents), folder / "corpus" / "train")
    doing("Writing the tokens to disk.")
    heldout = _write(tokenizer, vocab, reading.heldout, folder / "corpus" / "heldout") if reading.heldout else None
    for line in report.summary():
        tell(line)
    if reading.overlap:
        tell(f"Left out of the training text because they are held out: {reading.overlap:,} documents.")
    if (counted := _counted(text)) is not None:
        share = counted / len(text.tokens)
        tell(f"Of conversations only the answers are learned and measured: {share:.0%} of all tokens count.")
    if heldout is None:
        tell("No text is held out, so nothing will be measured; give more text, or some with --holdout.")
    counts = asdict(report)
    facts = {
        "paths": list(paths),
        "holdout": list(holdout),
        **{name: counts[name] for name in ("documents", "bytes", "duplicates", "duplicate_bytes", "skipped")},
        "overlap": reading.overlap,
        "tokenizer": tokenizer.hash,
        "train": _facts(text),
        "heldout": heldout and _facts(heldout),
    }
    if len(paths) == 1 and paths[0].startswith(WORLD) and reading.heldout:
        facts["floor_bits_per_byte"] = _floor(paths[0], reading.heldout)
    return Corpus(tokenizer, text, heldout), facts


def _followed(documents: Iterable[Document], report: Report, doing: Doing) -> Iterator[Document]:
    """The documents, while it is told how far reading them is. How much is still to come is not known."""
    told = -math.inf
    for document in documents:
        if (now := time.monotonic()) - told >= _TELL_EVERY:
            doing(f"Reading the text: {report.bytes / 1e6:,.1f} MB so far, document {report.documents:,}.")
            told = now
        yield document


def _floor(path: str, documents: Sequence[Document]) -> float:
    """The bits per byte that these documents of a known-truth language take with its true probabilities."""
    language = world(path.removeprefix(WORLD).split(",")[0])
    bits = -sum(language.log2_probability(document.text) for document in documents)
    return bits / sum(document.n_bytes for document in documents)


def vocabulary(size: int) -> int:
    """How many tokens fit a text of `size` bytes."""
    return next((vocab for limit, vocab in _VOCABULARIES if size < limit), _LARGEST_VOCABULARY)


class _Split:
    """Parts documents into those to train on, which pass through, and those held out, which are kept."""

    def __init__(self, holdout: Sequence[str], report: Report, errors: Undecodable) -> None:
        self._report = report
        self._given = list(read_documents(holdout, report=Report(), errors=errors)) if holdout else None
        self.heldout = self._given or []
        self.overlap = 0  # documents not trained on because they are among those given to be held out

    def training(self, documents: Iterable[Document]) -> Iterator[Document]:
        excluded = {document.identity for document in self.heldout}
        for document in deduplicate(documents, self._report):
            if self._given is None and is_heldout(document, HELDOUT_SHARE):
                self.heldout.append(document)
            elif document.identity in excluded:
                self.overlap += 1
            else:
                yield document


def _beginning(documents: Iterable[Document]) -> Iterator[str]:
    """The texts, until they are long enough to learn a tokenizer from."""
    left = _TOKENIZER_TEXT
    for document in documents:
        if left <= 0:
            return
        yield document.text[:left]
        left -= len(document.text)


def _write(tokenizer: Tokenizer, vocab: int, documents: Iterable[Document], folder: Path) -> Shards:
    encoded = encode_documents(tokenizer, _writable(tokenizer, documents), begin=tokenizer.begin_id)
    sizes = np.zeros(vocab, np.uint16)  # an embedding may have more rows than there are tokens
    known = token_sizes(tokenizer)
    sizes[: len(known)] = known
    return write_shards(folder, encoded, token_bytes=sizes)


def _writable(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document.messages is not None and tokenizer.chat_template is None:
            raise InputError(
                f"{document.source}:{document.line} is a conversation, but the model has no chat template to write it "
                "with; go on from a model that has one, or train without --from."
            )
        yield document


def _facts(shards: Shards) -> Facts:
    return {
        "documents": shards.n_documents,
        "tokens": len(shards.tokens),
        "counted": _counted(shards),
        "bytes": shards.bytes,
        "hash": shards.hash,
    }


def _counted(shards: Shards) -> int | None:
    """How many tokens it counts to predict; None for a text without conversations, where all do."""
    return None if shards.mask is None else int(np.count_nonzero(shards.mask))


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run: its steps, its bits per byte on held-out text, its seconds with everything counted and
    the most bytes of memory it holds. What nothing is known of is None.
    """

    steps: int
    bits_per_byte: float | None
    seconds: float
    memory_bytes: int | None


def plan(
    corpus: Corpus,
    budget: Budget,
    depth: int | None,
    seed: int,
    device: str,
    began: float,
    tell: Tell,
    *,
    recipe: Recipe | None = None,
    from_pairs: bool = False,
    floor: float | None = None,
    doing: Doing = lambda what: None,
) -> tuple[Recipe, Forecast]:
    """The recipe for this text, budget and machine, and what to expect of it.

    `began` is the time.monotonic() from which minutes count. recipe: one that goes on from a model; only its steps
    are planned, and its bits per byte are not forecast. floor: the bits per byte that no model comes below. Raises
    InputError for a text that is too short.
    """
    is_new = recipe is None
    if recipe is None:
        recipe, pace = _fit(corpus.text, budget, depth, seed, device, began, from_pairs, doing)
    else:
        doing("Trying out how fast this machine trains the model.")
        pace = measure_pace(recipe, corpus.text, device, _TRIAL_SECONDS)
    batch = recipe.rows * recipe.architecture.context
    token_pace = pace / batch / 2  # of measuring: no backward pass
    final = min(budget.final_limit(token_pace), len(corpus.heldout.tokens)) if corpus.heldout else 0
    if budget.steps is None:
        left = budget.seconds_left(time.monotonic() - began, token_pace * final)
        assert left is not None
        if left < pace:
            tell(f"The {budget.minutes:g} minutes are over before the first step; one is taken. Give more --minutes.")
        recipe = replace(recipe, steps=max(1, int(left / pace)))
    bits = None
    if corpus.heldout is not None and is_new:
        read = recipe.steps * batch
        bits = forecast_bits_per_byte(
            corpus.text, corpus.heldout, read, from_pairs=recipe.from_pairs, until=budget.until, floor=floor
        )
    seconds = time.monotonic() - began + recipe.steps * pace + token_pace * final
    if budget.minutes is None:  # else the end is moved to where it is on time
        seconds += MEASURING * recipe.steps * pace + _SAVING
    memory = peak_memory(device)
    if memory is not None and recipe.from_pairs and device == "cpu":
        memory += BYTES_PER_PAIR * recipe.architecture.vocab**2
    forecast = Forecast(recipe.steps, bits, max(seconds, 60 * (budget.minutes or 0)), memory)
    _tell_plan(recipe, pace, forecast, budget.until, len(corpus.text.tokens), tell)
    return recipe, forecast


def _fit(
    text: Shards,
    budget: Budget,
    depth: int | None,
    seed: int,
    device: str,
    began: float,
    from_pairs: bool,
    doing: Doing,
) -> tuple[Recipe, float]:
    """A model that fits the time, as far as trials show, and the seconds of a step; how many steps is still open."""

    def seconds_left() -> float:
        left = budget.seconds_left(time.monotonic() - began, 0.0)
        return math.inf if left is None else max(left, 0.0)

    def with_dropout(recipe: Recipe, steps: float) -> Recipe:
        return replace(
            recipe, dropout=dropout_for(steps * recipe.rows * recipe.architecture.context / len(text.tokens))
        )

    def pace_of(recipe: Recipe) -> float:
        return measure_pace(recipe, text, device, min(_TRIAL_SECONDS, _TRIAL_SHARE * seconds_left()))

    def trial(n_layers: int) -> tuple[Recipe, float]:
        doing(f"Trying out how fast this machine trains {n_layers} layers.")
        architecture, rows = shape(n_layers, text.vocab, len(text.tokens))
        rows = rows_for(device, architecture.context, rows, len(text.tokens))
        recipe = Recipe(architecture, budget.steps or 1000, rows, seed=seed, dtype=pick_dtype(device))
        if from_pairs:
            untied = replace(architecture, tied=False)
            recipe = replace(recipe, architecture=untied, from_pairs=True, warmup=_WARMUP_FROM_PAIRS)
        recipe = with_dropout(recipe, budget.steps or 0)
        return recipe, pace_of(recipe)

    n_layers = depth or (FEWEST_LAYERS if budget.steps is None else _USUAL_DEPTH)
    recipe, pace = trial(n_layers)
    while depth is None and budget.steps is None:
        operations = operations_per_step(recipe) / pace * seconds_left()
        better = n_layers_for(operations, text.vocab, len(text.tokens))
        if better <= n_layers:  # the deeper a model, the more of the machine's speed it uses, so this ends
            break
        n_layers = better
        recipe, pace = trial(n_layers)
    if budget.steps is None:
        recipe = with_dropout(recipe, seconds_left() / pace)
    if pays_to_compile(min(seconds_left(), pace * (budget.steps or math.inf)), device):
        doing("Compiling the model.")
        recipe = replace(recipe, compiled=True)
        pace = pace_of(recipe)
    return recipe, pace


def _tell_plan(recipe: Recipe, pace: float, forecast: Forecast, until: float | None, n_tokens: int, tell: Tell) -> None:
    a = recipe.architecture
    seen = recipe.steps * recipe.rows * a.context
    tell(
        f"Model: {a.n_parameters:,} parameters, {a.n_layers} layers of {a.width}, {a.vocab:,} tokens in "
        f"its vocabulary, {a.context} in its context."
    )
    dropout = f"; dropout of {recipe.dropout:.0%}, as it is read so often" if recipe.dropout else ""
    tell(
        f"Plan: {recipe.steps:,} steps of {recipe.rows} x {a.context} tokens, {pace:.3f} s each; "
        f"{seen:,} tokens, {seen / n_tokens:.1f} times the text of {n_tokens:,}{dropout}."
    )
    if seen > (1 + FADING) * n_tokens:
        tell(
            f"After about {1 + FADING:.0f} readings little more is learned from a text, but it may be by heart; "
            "give more of it."
        )
    parts = [f"{forecast.seconds:,.0f} s in all" if until is None else f"at most {forecast.seconds:,.0f} s in all"]
    if forecast.bits_per_byte is not None:
        missed = until is not None and forecast.bits_per_byte > until
        parts.append(
            f"{forecast.bits_per_byte:.2f} bits per byte on held-out text"
            + (f" (the {until:g} of --until would take longer)" if missed else "")
        )
    if forecast.memory_bytes is not None:
        parts.append(f"{forecast.memory_bytes / 1e9:.1f} GB of memory")
    tell(f"Forecast: {', '.join(parts)}.")
