"""A text with its index and the tokenizer that cut it: what a model's words are traced back to.

    FOLDER/tokenizer.json   corpus/train (token shards)   corpus/index

That is the layout of a run folder, whose index is built when it is first asked for, and of what `index_files` makes
of any other text. The tokenizer stays with the text because ids of another one say nothing about it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.base.atomic import atomic_folder, locked
from nextword.corpus.documents import Report, read_documents
from nextword.corpus.index import Index, Occurrence, build_index, open_index
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import Shards, open_shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError, ModelNotFound, StaleIndex, UnknownToken
from nextword.optimize.order import Order
from nextword.parameters.checkpoints import checkpoint_steps

Tell = Callable[[str], None]
Busy = Callable[[str], AbstractContextManager[object]]
"""Called with what takes long now; what it returns is open meanwhile."""

_PLAIN = (".txt", ".md")  # sources whose documents are lines of the file as they are


@dataclass(frozen=True)
class Place:
    """Where a passage stands: its first token is the `offset`th (from 0) of a document.

    `source`, `line` and `title` cite it. `line` is, in a file of plain text, that in which the passage begins; in a
    file of records, that of the document's record (or its row); both from 1.
    """

    document: int
    offset: int
    position: int
    source: str
    line: int
    title: str | None


@dataclass(frozen=True, eq=False)
class IndexedText:
    """An opened text; made by `open_indexed`."""

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
        """How many lines end in each token, int64 [vocab]."""
        special = self.tokenizer.special_ids
        return np.array([0 if id in special else self._spelled(id).count(b"\n") for id in range(self.shards.vocab)])

    def _spelled(self, id: int) -> bytes:
        try:
            return self.tokenizer.token_bytes(id)
        except UnknownToken:  # an unused id
            return b""


def open_indexed(folder: Path, *, tokenizer: Tokenizer | None = None, busy: Busy = nullcontext) -> IndexedText:
    """Open the text of a run folder, or of a folder that `index_files` made; its index is built if it is missing.

    tokenizer: that of the model whose words are to be traced. Raises ModelNotFound if there is no text, StaleIndex
    if it was cut by another tokenizer or the index is that of another text, CorruptFile, TokenizerError, OSError.
    """
    shards, own = _text(folder)
    if tokenizer is not None and tokenizer.hash != own.hash:
        raise StaleIndex(
            f"The text in {folder} was cut by another tokenizer than the model's; index its files for this model: "
            "nextword index FILES --model M --out DIR."
        )
    where = folder / "corpus" / "index"
    if not where.exists():
        _build(where, shards, busy)
    return IndexedText(folder, own, shards, open_index(where, shards.tokens, shards.starts, text=shards.hash))


def reindex(folder: Path, *, busy: Busy = nullcontext) -> tuple[IndexedText, bool]:
    """The same with every byte of the index checked, and a stale or damaged one built anew; also whether it was built.

    Raises what `open_indexed` does, except about the index.
    """
    shards, _ = _text(folder)
    where = folder / "corpus" / "index"
    try:
        with busy("checking the index"):
            open_index(where, shards.tokens, shards.starts, text=shards.hash).verify()
        fresh = False
    except (ModelNotFound, StaleIndex, CorruptFile):
        shutil.rmtree(where, ignore_errors=True)
        fresh = True
    return open_indexed(folder, busy=busy), fresh


def index_files(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    out: Path,
    *,
    tell: Tell = lambda line: None,
    busy: Busy = nullcontext,
) -> IndexedText:
    """Index other text for a model: cut by its tokenizer and written, with its index, to the new folder `out`.

    Repeated documents count as often as they are there. Raises InputError for paths that cannot be read or hold no
    text and for a folder that exists, TokenizerError, NoDiskRoom, OSError; then nothing is left behind.
    """
    if out.exists():
        raise InputError(f"{out} exists; remove it, or choose another folder for the index.")
    report = Report()
    begin = tokenizer.begin_id
    with atomic_folder(out) as folder:
        with busy("reading and encoding the text"):
            encoded = encode_documents(tokenizer, read_documents(paths, report=report), begin=begin)
            shards = write_shards(folder / "corpus" / "train", encoded, token_bytes=token_sizes(tokenizer))
        for line in report.summary():
            tell(line)
        tokenizer.save(folder)
        _build(folder / "corpus" / "index", shards, busy)
        del shards  # its files move
    return open_indexed(out)


def training_order(folder: Path) -> tuple[Order, int]:
    """In which order a run reads its text, and how many steps it has taken that can be gone back to.

    Raises ModelNotFound if the folder is no run, CorruptFile.
    """
    shards, _ = _text(folder)
    steps = checkpoint_steps(folder)
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_bytes())
        recipe = card["recipe"]
        order = Order(len(shards.tokens), recipe["architecture"]["context"], recipe["rows"], recipe["seed"])
        taken = max([*steps, (card["results"] or {}).get("steps", 0)])
    except FileNotFoundError as error:
        raise ModelNotFound(f"{folder} is not the folder of a run; give one that `nextword train` made.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{folder / 'card.json'} cannot be used ({error}); restore it.") from error
    return order, taken


def _text(folder: Path) -> tuple[Shards, Tokenizer]:
    where = folder / "corpus" / "train"
    if not where.is_dir():
        raise ModelNotFound(
            f"{folder} holds no text to trace words back to; give the folder of a run, or make one with: "
            "nextword index FILES --model M --out DIR."
        )
    return open_shards(where), Tokenizer.from_folder(folder)


def _build(where: Path, shards: Shards, busy: Busy) -> None:
    with busy(f"sorting {len(shards.tokens):,} tokens"), locked(where.with_name(".index.lock")):
        if not where.exists():  # nobody else has built it while this waited
            build_index(where, shards.tokens, shards.starts, text=shards.hash)
