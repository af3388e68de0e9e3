"""Paths -> a stream of documents: reading, removing exact duplicates, holding some out.

Promises: the order is that of the paths given, and by name within a folder; memory does not grow with the
corpus, except for about 100 bytes for each document that `deduplicate` has seen; whatever could not be used
is in the report.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from nextword.corpus.document import WORLD
from nextword.corpus.document import Document as Document
from nextword.corpus.document import Message as Message
from nextword.corpus.document import Report as Report
from nextword.corpus.formats import SUFFIXES, is_readable, optional, read_file, records
from nextword.corpus.undecodable import Undecodable
from nextword.corpus.worlds import drawn
from nextword.errors import InputError

_Reader = Callable[[], Iterable[Document]]


def read_documents(
    paths: Sequence[str | Path],
    *,
    report: Report,
    errors: Undecodable = "skip",
    passage: int | None = None,
) -> Iterator[Document]:
    """The documents of files, folders, known-truth languages and Hugging Face data sets, without empty ones.

    Args:
        paths: Files; folders, which are read with all that lies below, hidden files left out; languages
            ("world:pantry", see `worlds.drawn`); data sets ("owner/name", of which the split "train" is read).
        report: Filled while the documents are read.
        errors: What to do with text that is not UTF-8: skip it ("skip"), write U+FFFD for the bytes ("replace") or
            read it as Latin-1, which any bytes are ("latin-1"). The report has file and byte offset in any case.
        passage: None makes a text file one document. A number cuts the file at ends of paragraphs into documents of
            at least this many characters, so that a part of one long file can be held out.

    Raises:
        InputError: At once for a path that does not exist or is of a kind that nextword does not read; at the end
            of the stream if it held no text.

    >>> report = Report()
    >>> documents = read_documents(["world:pantry,mb=0.001"], report=report)
    >>> next(documents).text
    'Grandma saw an apple pie and a lemon cake. Ben saw a cherry tree.'
    """
    readers = [reader for path in paths for reader in _readers(str(path), report, errors, passage)]
    return _counted(readers, report, ", ".join(map(str, paths)) or "no path")


def deduplicate(documents: Iterable[Document], report: Report) -> Iterator[Document]:
    """The documents without exact duplicates; whitespace at the ends of a text does not count.

    >>> report = Report()
    >>> texts = [Document("a", "x.txt", 1), Document("b", "x.txt", 2), Document(" a", "x.txt", 3)]
    >>> [document.text for document in deduplicate(texts, report)], report.repeats
    (['a', 'b'], ['x.txt:3'])
    """
    seen: set[bytes] = set()
    for document in documents:
        if document.identity in seen:
            report.repeat(document)
        else:
            seen.add(document.identity)
            yield document


def is_heldout(document: Document, share: float, *, seed: int = 0) -> bool:
    """Whether a document belongs to the held-out text.

    The answer depends on the document's `identity` and the seed alone: it is the same whatever the order, the file
    and the rest of the corpus are, and a document held out at a smaller share is held out at a larger one too.

    Args:
        document: The document.
        share: The fraction of all documents to hold out, 0 to 1; met on average.
        seed: Another seed (0 to 2**64 - 1) holds out other documents.
    """
    digest = blake2b(document.identity, digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < share * 2.0**64


def _counted(readers: Sequence[_Reader], report: Report, paths: str) -> Iterator[Document]:
    for read in readers:
        for document in read():
            if document.text and not document.text.isspace():
                report.documents += 1
                report.bytes += document.n_bytes
                yield document
            else:
                report.empty += 1
    if not report.documents:
        reasons = [f"There is no text in {paths}; nextword reads {', '.join(SUFFIXES)}."]
        reasons += [f"The first problem: {problem}" for problem in report.problems[:1]]
        raise InputError(" ".join(reasons + report.advice()))


def _readers(path: str, report: Report, errors: Undecodable, passage: int | None) -> list[_Reader]:
    if path.startswith(WORLD):
        return [partial(iter, drawn(path))]
    place = Path(path)
    if place.is_dir():
        files = list(_files_below(place, report))
    elif place.is_file():
        if not is_readable(place):
            raise InputError(f"{path} is not of a kind that nextword reads: {', '.join(SUFFIXES)}.")
        files = [place]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not is_readable(place):
        purpose = f"There is no file or folder {path}; reading it as a Hugging Face data set"
        return [partial(_data_set, path, optional("datasets", purpose, "datasets"), report)]
    else:
        raise InputError(f"There is no file or folder {path}.")
    if any(file.suffix.lower() == ".parquet" for file in files):
        optional("pyarrow.parquet", f"Reading the tables of {path}", "parquet")
    return [partial(read_file, file, report, errors, passage) for file in files]


def _files_below(folder: Path, report: Report) -> Iterator[Path]:
    """Every readable file below a folder, in the order of names; links are followed, no folder is read twice."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            if path.is_dir():
                status = path.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    names = sorted(os.listdir(path), reverse=True)
                    waiting.extend(path / name for name in names if not name.startswith("."))
            elif not is_readable(path):
                report.ignored += 1
            elif path.is_file():
                yield path
            else:
                report.skip(str(path), "is a link to nothing, a pipe or a device")
        except OSError as error:
            report.skip(str(path), f"cannot be read ({error.strerror})")


def _data_set(name: str, datasets: Any, report: Report) -> Iterator[Document]:
    """The split "train" of a data set on the Hugging Face Hub, streamed."""
    try:
        yield from records(enumerate(datasets.load_dataset(name, split="train", streaming=True), 1), name, report)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"The data set {name} cannot be read from the Hugging Face Hub: {reason}") from error
