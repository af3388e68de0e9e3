"""Preparation of a text: paths become the tokens that a run trains on, the tokens held out, and a tokenizer.

Promises: no held-out document is trained on; the text is read once and need not fit into memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nextword.base.callbacks import OnNote, OnProgress, ignore
from nextword.corpus.document import WORLD
from nextword.corpus.documents import Document, Report, deduplicate, is_heldout, read_documents
from nextword.corpus.undecodable import Undecodable
from nextword.corpus.worlds import world
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import InputError
from nextword.parameters.open import Stored
from nextword.parameters.run_folder import RunFolder

Facts = dict[str, Any]

HELDOUT_SHARE = 0.02  # share of the documents: that is held out
PASSAGE = 4096  # characters: text files are cut into passages, so that a part of one can be held out
_TOKENIZER_TEXT = 16_000_000  # characters: that a tokenizer is trained on
_VOCABULARIES = ((2_000_000, 1024), (10_000_000, 2048), (50_000_000, 4096))  # below n bytes of text: tokens
_LARGEST_VOCABULARY = 8192  # tokens
_PROGRESS_EVERY = 0.25  # seconds: between reports of progress


@dataclass(frozen=True)
class Corpus:
    """A text on disk, ready to be trained on.

    Args:
        tokenizer: That cut it.
        text: To train on.
        heldout: To measure on, if any text is held out.
    """

    tokenizer: Tokenizer
    text: Shards
    heldout: Shards | None

    def stated_hashes(self) -> dict[str, str | None]:
        """The hashes of the files when they were written, by what a user calls them."""
        return self._hashes(lambda shards: shards.hash)

    def hashes(self) -> dict[str, str | None]:
        """The hashes of the files as they are now: every byte is read."""
        return self._hashes(Shards.content_hash)

    def _hashes(self, of: Callable[[Shards], str]) -> dict[str, str | None]:
        heldout = None if self.heldout is None else of(self.heldout)
        return {"text": of(self.text), "held-out text": heldout, "tokenizer": self.tokenizer.hash}


def open_corpus(folder: Path) -> Corpus:
    """Open what `prepare` wrote. Raises ModelNotFound, CorruptFile, TokenizerError."""
    run = RunFolder(folder)
    return Corpus(run.tokenizer(), run.text(), run.heldout())


def prepare(
    paths: Sequence[str],
    holdout: Sequence[str],
    folder: Path,
    on_note: OnNote = ignore,
    *,
    errors: Undecodable = "skip",
    stored: Stored | None = None,
    on_progress: OnProgress = ignore,
) -> tuple[Corpus, Facts]:
    """Read a text, hold out a part of it, learn a tokenizer and write the tokens of both.

    Args:
        paths: Files and folders of text, or what else `nextword.corpus.documents.read_documents` reads.
        holdout: Paths of the text to be held out; none: about a fiftieth of the documents is.
        folder: Written to, as `nextword.parameters.run_folder` says.
        on_note: Called with what was read, skipped and held out.
        errors: What becomes of text that is not UTF-8: "skip" it, "replace" its bytes, or read it as "latin-1".
        stored: A model whose tokenizer is used; None: a tokenizer is learned from the text.
        on_progress: Called with what is being done.

    Returns:
        The corpus, and where the text came from as JSON can hold it.

    Raises:
        InputError: A path cannot be read, there is no text, or a conversation where the model has no chat template.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written.
    """
    report, run = Report(), RunFolder(folder)
    split = _Split(holdout, report, errors)
    passage = None if holdout else PASSAGE
    documents = split.training(read_documents(paths, report=report, errors=errors, passage=passage))
    documents = _with_progress(documents, report, on_progress)
    first = _read_ahead(documents)
    if not first and not holdout:  # of a very small text, chance may hold out everything
        first, split.heldout = split.heldout, []
    if not first:
        raise InputError("No text is left to train on: all of it is in the held-out text; give more.")
    if stored is None:
        tokenizer = _learn_tokenizer(first, on_progress)
        vocab = tokenizer.vocab_size
    else:
        tokenizer, vocab = stored.tokenizer, stored.architecture.vocab
    tokenizer.save(folder)
    text = _write(tokenizer, vocab, chain(first, documents), run.text_path)
    on_progress("Writing the tokens to disk.")
    heldout = _write(tokenizer, vocab, split.heldout, run.heldout_path) if split.heldout else None
    corpus = Corpus(tokenizer, text, heldout)
    for line in [*report.summary(), *_describe(corpus, split.overlap)]:
        on_note(line)
    counts = asdict(report)
    facts = {
        "paths": list(paths),
        "holdout": list(holdout),
        **{name: counts[name] for name in ("documents", "bytes", "duplicates", "duplicate_bytes", "skipped")},
        "overlap": split.overlap,
        "tokenizer": tokenizer.hash,
        "train": _facts(text),
        "heldout": heldout and _facts(heldout),
    }
    if len(paths) == 1 and paths[0].startswith(WORLD) and split.heldout:
        facts["floor_bits_per_byte"] = _floor(paths[0], split.heldout)
    return corpus, facts


def _with_progress(documents: Iterable[Document], report: Report, on_progress: OnProgress) -> Iterator[Document]:
    """The documents, with a word now and then on how much was read. How much is still to come is not known."""
    told = -math.inf
    for document in documents:
        if (now := time.monotonic()) - told >= _PROGRESS_EVERY:
            on_progress(f"Reading the text: {report.bytes / 1e6:,.1f} MB so far, document {report.documents:,}.")
            told = now
        yield document


def _read_ahead(documents: Iterator[Document]) -> list[Document]:
    """The first documents, enough of them to know which vocabulary fits and to learn a tokenizer from."""
    first, size = [], 0
    for document in documents:
        first.append(document)
        size += document.n_bytes
        if size >= _VOCABULARIES[-1][0]:
            break
    return first


def _learn_tokenizer(documents: Sequence[Document], on_progress: OnProgress) -> Tokenizer:
    size = sum(document.n_bytes for document in documents)
    on_progress(f"Learning a tokenizer from {min(size, _TOKENIZER_TEXT) / 1e6:,.1f} MB of the text.")
    chat = any(each.messages is not None for each in documents)
    return train_bpe(_beginning(documents), vocabulary(size), chat=chat)


def _describe(corpus: Corpus, overlap: int) -> Iterator[str]:
    """What a user should know of the corpus."""
    if overlap:
        yield f"Left out of the training text because they are held out: {overlap:,} documents."
    if (counted := _counted(corpus.text)) is not None:
        share = counted / len(corpus.text.tokens)
        yield f"Of conversations only the answers are learned and measured: {share:.0%} of all tokens count."
    if corpus.heldout is None:
        yield "No text is held out, so nothing will be measured; give more text, or some with --holdout."


def _floor(path: str, documents: Sequence[Document]) -> float:
    """The bits per byte that these documents of a known-truth language take with its true probabilities."""
    language = world(path.removeprefix(WORLD).split(",")[0])
    bits = -sum(language.log2_probability(document.text) for document in documents)
    return bits / sum(document.n_bytes for document in documents)


def vocabulary(size: int) -> int:
    """The number of tokens of the vocabulary that fits a text of `size` bytes."""
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
    """The number of tokens that count in the loss; None for a text without conversations, where all do."""
    return None if shards.mask is None else int(np.count_nonzero(shards.mask))
