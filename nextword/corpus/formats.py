"""One file or table -> its documents: .txt and .md whole, .jsonl, .jsonl.gz and .parquet record by record.

Promise: whatever the bytes are, reading ends; what cannot be used is reported with its place and skipped, and
what comes before and after it is kept. No more than one record (one file of plain text) is held in memory.

A record has a `text`, or `messages` (a list of {"role", "content"}) if it is a conversation; its other
strings and numbers become the document's fields. With both, the messages are read: the text is usually the
same turns written out.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from nextword.base.text import size
from nextword.corpus.document import Document, Message, Report
from nextword.corpus.undecodable import Undecodable
from nextword.errors import InputError

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".parquet")

_LONGEST_LINE = 1 << 28  # bytes: of one JSON record; a small .gz can unpack to a line that fills the memory


def is_readable(path: Path) -> bool:
    """Whether the file's name ends like those of the kinds that nextword reads."""
    return path.name.lower().endswith(SUFFIXES)


def read_file(path: Path, report: Report, errors: Undecodable, passage: int | None) -> Iterator[Document]:
    """The documents of one file.

    Args:
        path: A file whose name `is_readable`.
        report: Filled with the problems of the file.
        errors: What to do with text that is not UTF-8, as in `read_documents`.
        passage: The least length in characters of the documents that a text file is cut into; None makes it one.
    """
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, report)
        elif name.endswith(".jsonl.gz"):
            with gzip.open(path, "rb") as file:
                yield from _json_lines(cast(BinaryIO, file), str(path), report, errors)
        elif name.endswith(".jsonl"):
            with path.open("rb") as file:
                yield from _json_lines(file, str(path), report, errors)
        else:
            yield from _plain(path, report, errors, passage)
    except OSError as error:
        report.skip(str(path), f"cannot be read ({error.strerror or error})")


def optional(module: str, purpose: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Args:
        module: The module's name, as in `import`.
        purpose: What the module is needed for: the beginning of the error's sentence.
        extra: The extra of nextword that installs the module.

    Raises:
        InputError: The module is not installed; the sentence names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the package {module.partition('.')[0]}: pip install 'nextword[{extra}]'."
        ) from error


def records(rows: Iterable[tuple[int, object]], source: str, report: Report) -> Iterator[Document]:
    """The documents of numbered records; a record that is no document is reported and skipped.

    Args:
        rows: Each record with its number in the file, from 1.
        source: The name of the file or data set.
        report: Filled with the problems of the records.

    >>> rows = [(1, {"text": "Once.", "author": "Anon"}), (2, {"title": "no text"})]
    >>> report = Report()
    >>> [(document.text, dict(document.fields)) for document in records(rows, "tales.jsonl", report)]
    [('Once.', {'author': 'Anon'})]
    >>> report.problems
    ['tales.jsonl:2: has no `text` that is a string, and no `messages`.']
    """
    for line, row in rows:
        try:
            yield _document(row, source, line)
        except ValueError as error:
            report.skip(f"{source}:{line}", str(error))


def _plain(path: Path, report: Report, errors: Undecodable, passage: int | None) -> Iterator[Document]:
    """A file of plain text: one document, or passages; line ends become \\n, as Python reads text."""
    data = path.read_bytes()
    if errors == "skip" and b"\0" in data:
        report.skip(str(path), f"byte {data.index(0)} is zero, so it is not text")
        return
    text = _decoded(data, str(path), 0, report, errors)
    if text is None:
        return
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for line, part in _passages(text, passage) if passage else [(1, text)]:
        yield Document(part, str(path), line)


def _passages(text: str, least: int) -> Iterator[tuple[int, str]]:
    """(line, part) for each part of the text: `least` characters and the rest of the paragraph.

    Where the paragraph goes on for more than `least` characters, the part ends with the line.
    """
    start, line = 0, 1
    while start < len(text):
        cut = text.find("\n\n", start + least, start + 2 * least)
        if cut < 0:
            cut = text.find("\n", start + least)
        end = cut if cut >= 0 else len(text)
        while text.startswith("\n", end):
            end += 1
        yield line, text[start:end]
        line += text.count("\n", start, end)
        start = end


def _json_lines(file: BinaryIO, source: str, report: Report, errors: Undecodable) -> Iterator[Document]:
    def rows() -> Iterator[tuple[int, object]]:
        for number, offset, line in _lines(file, source, report):
            where = f"{source}:{number}"
            text = _decoded(line, where, offset, report, errors)
            if text is None or not text.strip():
                continue
            try:
                yield number, json.loads(text)
            except RecursionError:
                report.skip(where, "is nested too deeply")
            except ValueError as error:  # not JSON, or a number of too many digits
                report.skip(where, f"is not JSON ({error})")

    return records(rows(), source, report)


def _lines(file: BinaryIO, source: str, report: Report) -> Iterator[tuple[int, int, bytes]]:
    """(number, byte offset, line) of each line that is not too long; a compressed file may be cut short."""
    number = offset = 0
    try:
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) < _LONGEST_LINE or line.endswith(b"\n"):
                yield number, offset, line
            else:
                report.skip(f"{source}:{number}", f"is longer than {size(_LONGEST_LINE)}")
                while not line.endswith(b"\n") and (more := file.readline(_LONGEST_LINE)):
                    offset += len(line)
                    line = more
            offset += len(line)
    except EOFError:
        report.skip(f"{source}:{number + 1}", "the compressed file is cut short here; what comes before is used")
    except (zlib.error, gzip.BadGzipFile) as error:
        report.skip(f"{source}:{number + 1}", f"the compressed file is damaged here ({error})")


def _parquet(path: Path, report: Report) -> Iterator[Document]:
    """The documents of a table, read 64 rows at a time; columns that are neither text nor numbers are not read."""
    parquet = optional("pyarrow.parquet", f"Reading {path}", "parquet")

    def rows() -> Iterator[tuple[int, object]]:
        number = 0
        try:
            with parquet.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=64, columns=_columns(table.schema_arrow)):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (ValueError, NotImplementedError) as error:  # pyarrow's errors; text that is not UTF-8
            reason = str(error).partition("\n")[0]
            report.skip(f"{path}:{number + 1}", f"the table cannot be read from here on ({reason})")

    return records(rows(), str(path), report)


def _columns(schema: Any) -> list[str]:
    plain = ("string", "large_string", "dictionary", "int", "uint", "float", "double")
    return [field.name for field in schema if field.name == "messages" or str(field.type).startswith(plain)]


def _decoded(data: bytes, where: str, offset: int, report: Report, errors: Undecodable) -> str | None:
    """The text of bytes that begin at byte `offset` of a file; None where they are not UTF-8 and are skipped."""
    if offset == 0 and data.startswith(codecs.BOM_UTF8):
        data, offset = data[3:], 3
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problem = f"byte {offset + error.start} (0x{data[error.start]:02x}) is not UTF-8"
    if errors == "skip":
        report.undecodable += 1
        report.skip(where, problem)
        return None
    report.note(where, f"{problem}; read {'as Latin-1' if errors == 'latin-1' else 'with U+FFFD for such bytes'}")
    return data.decode("latin-1") if errors == "latin-1" else data.decode(errors="replace")


def _document(record: object, source: str, line: int) -> Document:
    """The document of a record. Raises ValueError with the reason if the record is no document."""
    if not isinstance(record, Mapping):
        raise ValueError("is not a JSON object with a `text` or `messages`")
    messages = None
    if record.get("messages") is not None:
        messages = _messages(record["messages"])
        text = "\n\n".join(f"{message.role}: {message.content}" for message in messages)
    elif isinstance(record.get("text"), str):
        text = record["text"]
    else:
        raise ValueError("has no `text` that is a string, and no `messages`")
    if not _is_unicode(text):
        raise ValueError("holds half of a surrogate pair, which is not text")
    fields = {
        key: _without_surrogates(str(value))
        for key, value in record.items()
        if key not in ("text", "messages", "title") and type(value) in (str, int, float)
    }
    title = record.get("title") or None
    title = _without_surrogates(title) if isinstance(title, str) else None
    return Document(text, source, line, title, fields, messages)


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("has `messages` that are not a list of turns")
    for turn in value:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise ValueError("has a message without `role` and `content` that are strings")
    return tuple(Message(turn["role"], turn["content"]) for turn in value)


def _without_surrogates(text: str) -> str:
    return text if _is_unicode(text) else text.encode(errors="replace").decode()


def _is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogate, which JSON can write and UTF-8 cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
