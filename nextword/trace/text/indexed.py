"""A text with its index and the tokenizer that cut it: what a model's words are traced back to.

    FOLDER/tokenizer.json   corpus/train (token shards)   corpus/index

That is the layout of a run folder, and of what `index_files` makes of any other text. The tokenizer stays with the
text because ids of another one say nothing about it.

A text that is asked for by its folder is indexed when it has no index yet. `own_text` alone decides which text a model
has by itself: that of the run it lies in, indexed at once where that takes seconds (`CHEAP`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextword.base.atomic import atomic_folder, locked
from nextword.base.callbacks import OnNote, Spinner, ignore
from nextword.corpus.documents import Report, read_documents
from nextword.corpus.index import Index, Occurrence, build_index, open_index
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError, ModelNotFound, NoDiskRoom, StaleIndex, UnknownToken
from nextword.optimize.order import Order
from nextword.parameters.run_folder import RunFolder

_LOG = logging.getLogger(__name__)

CHEAP = 20_000_000  # tokens: of a text that is indexed without being asked for, in about five seconds
_PLAIN = (".txt", ".md")  # sources whose documents are lines of the file as they are


@dataclass(frozen=True)
class Place:
    """Where a passage stands in a text.

    Args:
        document: Number of the document, from 0.
        offset: Of the passage's first token in the document, from 0.
        position: Of that token in the whole text, from 0.
        source: The file that the document is from.
        line: From 1: in a file of plain text, that in which the passage begins; in a file of records, that of the
            document's record (or its row).
        title: Of the document, None without one.
    """

    document: int
    offset: int
    position: int
    source: str
    line: int
    title: str | None


@dataclass(frozen=True, eq=False)
class IndexedText:
    """An opened text; made by `open_indexed`.

    Args:
        folder: Of the run or the text.
        tokenizer: That cut the text.
        shards: The text's tokens, document by document.
        index: Of these tokens.
    """

    folder: Path
    tokenizer: Tokenizer
    shards: Shards
    index: Index

    def place(self, occurrence: Occurrence) -> Place:
        """The citation of an occurrence. Raises CorruptFile if the table of documents is damaged."""
        provenance = self.shards.document(occurrence.document)
        line = provenance["line"]
        if provenance["source"].lower().endswith(_PLAIN):
            before = self.shards.tokens[occurrence.position - occurrence.offset : occurrence.position]
            line += int(self._line_ends[before].sum())
        return Place(
            occurrence.document,
            occurrence.offset,
            occurrence.position,
            provenance["source"],
            line,
            provenance["title"],
        )

    @cached_property
    def _line_ends(self) -> npt.NDArray[np.int64]:
        """The number of lines that end in each token, int64 [vocab]."""
        special = self.tokenizer.special_ids
        return np.array([0 if id in special else self._bytes(id).count(b"\n") for id in range(self.shards.vocab)])

    def _bytes(self, id: int) -> bytes:
        """The bytes of a token; none for an id that stands for none."""
        try:
            return self.tokenizer.token_bytes(id)
        except UnknownToken:  # an unused id
            return b""


def open_indexed(folder: Path, *, tokenizer: Tokenizer | None = None, spinner: Spinner = nullcontext) -> IndexedText:
    """Open the text of a run folder, or of a folder that `index_files` made; its index is built if it is missing.

    Args:
        folder: Of the run or the text.
        tokenizer: Of the model whose words are to be traced; None: not checked.
        spinner: Open while the index is built.

    Raises:
        ModelNotFound: There is no text.
        StaleIndex: The text was cut by another tokenizer, or the index is that of another text.
        CorruptFile: A file is damaged.
        TokenizerError: The tokenizer cannot be read.
        OSError: The index cannot be written.
    """
    run = RunFolder(folder)
    shards, own = run.text(), run.tokenizer()
    if tokenizer is not None and tokenizer.hash != own.hash:
        raise StaleIndex(
            f"The text in {folder} was cut by another tokenizer than the model's; index its files for this model: "
            "nextword index FILES --model M --out DIR."
        )
    where = run.index_path
    if not where.exists():
        _build(where, shards, spinner)
    return IndexedText(folder, own, shards, open_index(where, shards.tokens, shards.starts, text=shards.hash))


def own_text(model: Path) -> Path | None:
    """The folder of the text that a model learned, with its index; None where it is not here.

    A model has a text of its own where it is a run's, or one of its checkpoints. If the text has no index yet and is
    no longer than `CHEAP`, the index is built; the module's logger reports that, or why it could not be built.

    Args:
        model: The path of the opened model (`nextword.api.GPT.path`).
    """
    run = RunFolder.of_model(model)
    if run is None:
        return None
    if run.index_path.exists():
        return run.path
    shards = run.text()
    n_tokens = len(shards.tokens)
    if n_tokens > CHEAP:
        _LOG.info("The text of %s has no index; make one with: nextword index %s", run.path, run.path)
        return None
    _LOG.info("Indexing the text of %s once: %s tokens.", run.path, f"{n_tokens:,}")
    try:
        _build(run.index_path, shards, nullcontext)
    except (NoDiskRoom, OSError) as error:
        _LOG.info("The text of %s cannot be indexed: %s", run.path, error)
        return None
    return run.path


def reindex(folder: Path, *, spinner: Spinner = nullcontext) -> tuple[IndexedText, bool]:
    """The same as `open_indexed`, with every byte of the index checked and a stale or damaged one built anew.

    Returns:
        The text, and whether its index was built.

    Raises what `open_indexed` does, except about the index.
    """
    run = RunFolder(folder)
    shards, where = run.text(), run.index_path
    try:
        with spinner("checking the index"):
            open_index(where, shards.tokens, shards.starts, text=shards.hash).verify()
        fresh = False
    except (ModelNotFound, StaleIndex, CorruptFile):
        shutil.rmtree(where, ignore_errors=True)
        fresh = True
    return open_indexed(folder, spinner=spinner), fresh


def index_files(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    out: Path,
    *,
    on_note: OnNote = ignore,
    spinner: Spinner = nullcontext,
) -> IndexedText:
    """Index other text for a model: cut by its tokenizer and written, with its index, to a new folder.

    Repeated documents count as often as they are there. What raises leaves nothing behind.

    Args:
        paths: Files and folders of text, or what else `nextword.corpus.documents.read_documents` reads.
        tokenizer: Of the model.
        out: The new folder.
        on_note: Called with what was read, and what was skipped.
        spinner: Open while text is read, and while it is sorted.

    Raises:
        InputError: A path cannot be read or holds no text, or the folder exists.
        TokenizerError: The tokenizer has no special token to put between documents.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written.
    """
    if out.exists():
        raise InputError(f"{out} exists; remove it, or choose another folder for the index.")
    report = Report()
    begin = tokenizer.begin_id
    with atomic_folder(out) as temporary:
        run = RunFolder(temporary)
        with spinner("reading and encoding the text"):
            encoded = encode_documents(tokenizer, read_documents(paths, report=report), begin=begin)
            shards = write_shards(run.text_path, encoded, token_bytes=token_sizes(tokenizer))
        for line in report.summary():
            on_note(line)
        tokenizer.save(temporary)
        _build(run.index_path, shards, spinner)
        del shards  # its files move
    return open_indexed(out)


def training_order(folder: Path) -> tuple[Order, int]:
    """The order in which a run reads its text, and the number of steps it has taken that can be gone back to.

    Raises ModelNotFound if the folder is no run, CorruptFile.
    """
    run = RunFolder(folder)
    shards = run.text()
    if not run.has_card:
        raise run.no_run()
    card = run.card()
    recipe, results = card.recipe, card.results or {}
    order = Order(len(shards.tokens), recipe.architecture.context, recipe.batch_size, recipe.seed)
    return order, max([*run.steps(), results.get("steps", 0)])


def _build(where: Path, shards: Shards, spinner: Spinner) -> None:
    with spinner(f"sorting {len(shards.tokens):,} tokens"), locked(where.with_name(".index.lock")):
        if not where.exists():  # nobody else has built it while this waited
            build_index(where, shards.tokens, shards.starts, text=shards.hash)
