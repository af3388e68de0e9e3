"""What is read: a document, where it came from, and the account of what was read, repeated and skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

WORLD = "world:"  # begins the source of a document that was drawn from a known-truth language, not collected

_EXAMPLES = 20  # sentences that a report keeps; what is beyond them is counted
_NOT_UTF8 = "To read text that is not UTF-8 all the same, give --not-utf8 latin-1 or --not-utf8 replace."


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """A text and its provenance.

    `source` is the path as the user gave it (with what lies below a folder), `line` the line of that file, or
    the row of that table, at which the document starts, from 1: together they cite it. `fields` are the other
    strings of its record (author, license, id, ...). `messages` are the turns of a conversation, whose `text`
    is the turns written out.
    """

    text: str
    source: str
    line: int
    title: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None

    @cached_property
    def identity(self) -> bytes:
        """16 bytes (BLAKE2b), equal for documents that say the same: the text without whitespace at its ends.

        A document of a known-truth language is told apart by its place in the draw instead: there repeats
        are part of the truth, and removing them would change the probabilities.
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
        """Where it came from, as JSON can hold it: source, line, title, fields."""
        return {"source": self.source, "line": self.line, "title": self.title, "fields": dict(self.fields)}


@dataclass
class Report:
    """What happened while a corpus was read; filled as the documents flow.

    `documents` and `bytes` (of UTF-8) count what was read, before `duplicates` and `duplicate_bytes` were
    removed; `empty` documents were dropped; `skipped` counts the files and records that could not be used,
    `undecodable` those of them that are not UTF-8, and `ignored` the files of folders that are of no kind nextword
    reads. `problems` and `repeats` are sentences and places for the first of each.
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
        """Something the user should know about a file or record that was used all the same."""
        if len(self.problems) < _EXAMPLES:
            self.problems.append(f"{where}: {what}.")

    def skip(self, where: str, why: str) -> None:
        """A file, or a record of one, was not used."""
        self.skipped += 1
        self.note(where, why)

    def advice(self) -> list[str]:
        """How to use what was skipped and could be read, in one sentence or none."""
        return [_NOT_UTF8] if self.undecodable else []

    def repeat(self, document: Document) -> None:
        """A document was removed because it repeats an earlier one."""
        self.duplicates += 1
        self.duplicate_bytes += document.n_bytes
        if len(self.repeats) < _EXAMPLES:
            self.repeats.append(f"{document.source}:{document.line}")

    def summary(self) -> list[str]:
        """The account in plain sentences, one a line."""
        lines = [f"Read {_count(self.documents, 'document')}, {_size(self.bytes)} of text."]
        if self.duplicates:
            what = f"{_count(self.duplicates, 'exact duplicate')}, {_size(self.duplicate_bytes)}"
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


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e5 else _count(n_bytes, "byte")


def _listed(examples: list[str], number: int, shown: int = 3) -> str:
    rest = number - len(examples[:shown])
    return ", ".join(examples[:shown]) + (f" and {rest:,} more" if rest else "")
