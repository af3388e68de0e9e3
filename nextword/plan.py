"""Before a run: its text becomes tokens, and the time it has becomes a recipe.

Promises: no held-out document is trained on; the text is read once and need not fit into memory; what was planned
for a number of steps depends on the text and the machine's kind alone, and what was planned for minutes also on how
fast its first steps were.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from nextword.corpus.documents import Document, Report, deduplicate, is_heldout, read_documents
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, open_shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import InputError, SettingError
from nextword.model.architecture import tensor_shapes
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Trainer

Tell = Callable[[str], None]
Facts = dict[str, Any]

HELDOUT_SHARE = 0.02
PASSAGE = 4096  # characters: text files are cut into passages, so that a part of one can be held out
FINAL_LIMIT = 262_144  # tokens of held-out text that are measured at the end, at most
_TOKENIZER_TEXT = 16_000_000  # characters that the tokenizer is trained on
_VOCABULARIES = ((2_000_000, 1024), (10_000_000, 2048), (50_000_000, 4096))  # below so many bytes of text
_LARGEST_VOCABULARY = 8192
_DEPTHS = ((0.5, 2), (5.0, 4), (30.0, 6))  # below so many minutes
_DEEPEST, _USUAL_DEPTH = 8, 4
_TRIAL_SECONDS, _TRIAL_STEPS = 1.5, 32
_SAVING = 1.0  # seconds that are kept for writing the model


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
            if value is not None and not (value > 0 and isfinite(value)):
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
        return self._hashes(_content_hash)

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


def prepare(paths: Sequence[str], holdout: Sequence[str], folder: Path, tell: Tell) -> tuple[Corpus, Facts]:
    """Read the text, hold out a part of it, learn a tokenizer and write the tokens of both below `folder`.

    Also returns, as JSON can hold it, where the text came from. Held out are the documents of the paths
    `holdout`, or about a fiftieth of all. Raises InputError for paths that cannot be read and for a corpus
    without text, NoDiskRoom, OSError.
    """
    report = Report()
    reading = _Split(holdout, report)
    documents = reading.training(read_documents(paths, report=report, passage=None if holdout else PASSAGE))
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
    tokenizer = train_bpe(_beginning(first), vocabulary(size))
    tokenizer.save(folder)
    text = _write(tokenizer, chain(first, documents), folder / "corpus" / "train")
    heldout = _write(tokenizer, reading.heldout, folder / "corpus" / "heldout") if reading.heldout else None
    for line in report.summary():
        tell(line)
    if reading.overlap:
        tell(f"Left out of the training text because they are held out: {reading.overlap:,} documents.")
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
    return Corpus(tokenizer, text, heldout), facts


def vocabulary(size: int) -> int:
    """How many tokens fit a text of `size` bytes."""
    return next((vocab for limit, vocab in _VOCABULARIES if size < limit), _LARGEST_VOCABULARY)


class _Split:
    """Parts documents into those to train on, which pass through, and those held out, which are kept."""

    def __init__(self, holdout: Sequence[str], report: Report) -> None:
        self._report = report
        self._given = list(read_documents(holdout, report=Report())) if holdout else None
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


def _write(tokenizer: Tokenizer, documents: Iterable[Document], folder: Path) -> Shards:
    assert tokenizer.bos_id is not None
    encoded = encode_documents(tokenizer, documents, begin=tokenizer.bos_id)
    return write_shards(folder, encoded, token_bytes=token_sizes(tokenizer))


def _content_hash(shards: Shards) -> str:
    """`Shards.hash`, from what the files hold now."""
    columns = (shards.tokens, shards.starts, shards.mask, shards.token_bytes)
    digests = ("" if column is None else hashlib.sha256(column.data).hexdigest() for column in columns)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _facts(shards: Shards) -> Facts:
    return {
        "documents": shards.n_documents,
        "tokens": len(shards.tokens),
        "bytes": shards.bytes,
        "hash": shards.hash,
    }


def plan(corpus: Corpus, budget: Budget, depth: int | None, seed: int, device: str, began: float, tell: Tell) -> Recipe:
    """The recipe for this text, budget and machine; `began` is the time.monotonic() from which minutes count.

    Raises InputError for a text that is too short, SettingError for a depth that is no depth.
    """
    if depth is not None and depth < 1:
        raise SettingError(f"--depth must be at least 1 layer, not {depth}.")
    depth = depth or _depth(budget)
    context, rows = _batch(depth, len(corpus.text.tokens))
    architecture = standard(32 * (depth + 2), depth, corpus.text.vocab, context)
    recipe = Recipe(architecture, budget.steps or _TRIAL_STEPS, rows, seed=seed, dtype=_dtype(device))
    pace = _pace(recipe, corpus.text, device)
    if budget.steps is None:
        final = min(budget.final_limit(pace / rows / context / 2), len(corpus.heldout.tokens) if corpus.heldout else 0)
        left = budget.seconds_left(time.monotonic() - began, pace * final / rows / context / 2)
        assert left is not None
        recipe = Recipe(architecture, max(1, int(left / pace)), rows, seed=seed, dtype=recipe.dtype)
    parameters = sum(torch.Size(shape).numel() for shape in tensor_shapes(architecture).values())
    seen, n_tokens = recipe.steps * rows * context, len(corpus.text.tokens)
    tell(
        f"Model: {parameters:,} parameters, {depth} layers of {architecture.width}, {architecture.vocab:,} tokens in "
        f"its vocabulary, {context} in its context."
    )
    tell(
        f"Plan: {recipe.steps:,} steps of {rows} x {context} tokens, {pace:.3f} s each, about "
        f"{recipe.steps * pace:,.0f} s; {seen:,} tokens, {seen / n_tokens:.1f} times the text of {n_tokens:,}."
    )
    return recipe


def _depth(budget: Budget) -> int:
    if budget.minutes is None:
        return _USUAL_DEPTH
    return next((depth for limit, depth in _DEPTHS if budget.minutes < limit), _DEEPEST)


def _batch(depth: int, n_tokens: int) -> tuple[int, int]:
    """Context and rows for a depth; the context is halved until the text has more tokens than it."""
    context = 64 if depth <= 2 else 128 if depth <= 4 else 256
    rows = 32 if depth == 4 or depth >= 8 else 16
    while context >= n_tokens and context > 8:
        context //= 2
    return context, rows


def _dtype(device: str) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device multiplies it faster than float32."""
    if device == "cpu":
        able = torch.cpu.get_capabilities()
        fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    else:
        fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def _pace(recipe: Recipe, text: Shards, device: str) -> float:
    """Seconds that a step takes on this machine: the median of a few, taken by a trainer that is thrown away."""
    trainer = Trainer(recipe, text, device=device)
    began, seconds = time.monotonic(), []
    for progress in islice(trainer, _TRIAL_STEPS):
        seconds.append(progress.seconds)
        if time.monotonic() - began > _TRIAL_SECONDS and len(seconds) > 2:
            break
    return median(seconds[1:] or seconds)  # the first one also sets things up
