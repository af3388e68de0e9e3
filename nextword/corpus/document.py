"""A document with its provenance, and the report of what was read, repeated and skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from nextword.base.text import size

WORLD = "world:"  # prefix: of the source of a document that was drawn from a known-truth language, not collected

_EXAMPLES = 20  # sentences: kept by a report for each of its lists; further ones are only counted
_NOT_UTF8 = "To read text that is not UTF-8 all the same, give --not-utf8 latin-1 or --not-utf8 replace."


@dataclass(frozen=True)
class Message:
    """A turn of a conversation; `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """A text and its provenance.

    Args:
        text: The text; of a conversation, the turns written out.
        source: The path as the user gave it, for a folder with the path of the file below.
        line: The line of that file, or the row of that table, at which the document starts, from 1.
        title: The title of its record, if there is one.
        fields: The other strings and numbers of its record (author, license, id, ...), as text.
        messages: The turns of a conversation; None for any other text.
    """

    text: str
    source: str
    line: int
    title: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None

    @cached_property
    def identity(self) -> bytes:
        """Hash (BLAKE2b, 16 bytes) of the text without whitespace at its ends; equal documents are duplicates.

        A document of a known-truth language is identified by its place in the draw instead: repeats are part of
        such a language, and removing them would change its probabilities.
        """
        if self.source.startswith(WORLD):
            key = f"{self.source}:{self.line}"
        elif self.messages is not None:
            key = json.dumps([(message.role, message.content) for message in self.messages])
        else:
            key = self.text.strip()
        return blake2b(key.encode(), digest_size=16).digest()

    @property
    def n_bytes(self) -> int:
        """Length of the text in bytes of UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, line, title and fields, as JSON can hold them."""
        return {"source": self.source, "line": self.line, "title": self.title, "fields": dict(self.fields)}


@dataclass
class Report:
    """What happened while a corpus was read; filled while the documents are read.

    Args:
        documents: Number of documents read, duplicates included, empty ones not.
        bytes: Size of these documents in bytes of UTF-8.
        duplicates: Number of documents that were removed because they repeat an earlier one.
        duplicate_bytes: Size of the removed documents in bytes.
        empty: Number of documents that were dropped because they hold no text.
        skipped: Number of files and records that could not be used.
        undecodable: Number of the skipped ones that are not UTF-8.
        ignored: Number of files of a kind that nextword does not read, in folders that were read.
        problems: A sentence for each of the first problems.
        repeats: The place, as "source:line", of each of the first duplicates.
    """

    documents: int = 0
    bytes: int = 0
    duplicates: int = 0
    duplicate_bytes: int = 0
    empty: int = 0
    skipped: int = 0
    undecodable: int = 0
    ignored: int = 0
    problems: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)

    def note(self, where: str, what: str) -> None:
        """Note a problem of a file or record, which is used all the same."""
        if len(self.problems) < _EXAMPLES:
            self.problems.append(f"{where}: {what}.")

    def skip(self, where: str, why: str) -> None:
        """Note that a file or record is not used, and why."""
        self.skipped += 1
        self.note(where, why)

    def advice(self) -> list[str]:
        """A sentence on how to read text that was skipped because it is not UTF-8; empty if there is none."""
        return [_NOT_UTF8] if self.undecodable else []

    def repeat(self, document: Document) -> None:
        """Note that a document is removed because it repeats an earlier one."""
        self.duplicates += 1
        self.duplicate_bytes += document.n_bytes
        if len(self.repeats) < _EXAMPLES:
            self.repeats.append(f"{document.source}:{document.line}")

    def summary(self) -> list[str]:
        """The report in plain sentences, one a line.

        >>> Report(documents=3, bytes=2_000_000, empty=1).summary()
        ['Read 3 documents, 2.0 MB of text.', 'Dropped 1 empty document.']
        """
        lines = [f"Read {_count(self.documents, 'document')}, {size(self.bytes)} of text."]
        if self.duplicates:
            what = f"{_count(self.duplicates, 'exact duplicate')}, {size(self.duplicate_bytes)}"
            lines.append(f"Removed {what}: {_listed(self.repeats, self.duplicates)}.")
        if self.empty:
            lines.append(f"Dropped {_count(self.empty, 'empty document')}.")
        if self.skipped:
            lines.append(f"Skipped {_count(self.skipped, 'file or record', 'files or records')}.")
        if self.ignored:
            lines.append(f"Left alone {_count(self.ignored, 'file')} of other kinds.")
        return lines + self.problems + self.advice()


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _listed(examples: list[str], number: int, shown: int = 3) -> str:
    rest = number - len(examples[:shown])
    return ", ".join(examples[:shown]) + (f" and {rest:,} more" if rest else "")
