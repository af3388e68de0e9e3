"""Tokens on disk: the input of training, memory-mapped, from which every token can be traced to its document.

A folder of shards holds

    shards.json       format, vocab, tokens, documents, bytes, masked, hash
    tokens.npy        uint16 (vocab <= 65536) or uint32 [tokens]: the documents one after another
    starts.npy        int64 [documents + 1]: the place in tokens at which each document begins; the last is the
                      number of tokens
    mask.npy          uint8 [tokens], only if some document has a mask: 1 where the loss of
                      predicting this token counts
    token_bytes.npy   uint16 [vocab]: the number of bytes of text that each token stands for; 0 for special tokens
    documents.jsonl   one JSON object a document: its provenance
    lines.npy         int64 [documents]: the place in documents.jsonl at which the document's line begins, in bytes

Promises: the folder appears under its name only when all of it is on the disk; writing needs memory for a few
megabytes of tokens, whatever the size of the corpus (starts and lines take 16 bytes a document); numbers are
little-endian; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nextword.base.atomic import atomic_folder, flush_to_disk, flushed_write
from nextword.errors import CorruptFile, InputError, ModelNotFound, UnknownToken

Integers = npt.NDArray[np.integer[Any]]
EncodedDocument = tuple[Integers, npt.NDArray[np.uint8] | None, Mapping[str, Any]]

_FORMAT = 1
_PORTION_TOKENS = 1 << 20  # tokens: gathered before they are written
_SMALL_VOCAB = 1 << 16  # tokens: in the largest vocabulary that is stored as uint16


@dataclass(frozen=True, eq=False)
class Shards:
    """An opened folder of token shards; its arrays are memory-mapped and read when they are used.

    Args:
        folder: The folder.
        tokens: The ids of all documents, one after another, uint16 or uint32 [tokens].
        starts: The place in `tokens` at which each document begins, and the number of tokens, int64 [documents + 1].
        mask: 1 where the loss of predicting this token counts, uint8 [tokens]; None if it counts everywhere.
        token_bytes: The number of bytes of text that each token stands for, uint16 [vocab]; 0 for special tokens.
        bytes: Size of the text of all tokens in bytes of UTF-8, after the tokenizer's normalisation if there is one.
        hash: SHA-256 (hex) of what training sees: tokens, starts, mask and token_bytes, but not provenance.
        _lines: The content of lines.npy, int64 [documents].
    """

    folder: Path
    tokens: Integers
    starts: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8] | None
    token_bytes: npt.NDArray[np.uint16]
    bytes: int
    hash: str
    _lines: npt.NDArray[np.int64]

    @property
    def vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return len(self.token_bytes)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    def content_hash(self) -> str:
        """The hash of what the files hold now, for comparison with `hash`; every byte is read."""
        columns = (self.tokens, self.starts, self.mask, self.token_bytes)
        return _hash_of("" if column is None else hashlib.sha256(column.data).hexdigest() for column in columns)

    def document(self, i: int) -> dict[str, Any]:
        """The provenance of document i, as it was given to `write_shards`. Raises IndexError."""
        if not 0 <= i < self.n_documents:
            raise IndexError(f"document {i} of {self.n_documents}")
        with (self.folder / "documents.jsonl").open("rb") as file:
            file.seek(int(self._lines[i]))
            try:
                provenance: dict[str, Any] = json.loads(file.readline())
            except ValueError as error:
                raise CorruptFile(f"{file.name} is damaged; prepare the text again.") from error
        return provenance

    def locate(self, position: int) -> tuple[int, int]:
        """The number of the document that holds a token, and the token's place in it, from 0. Raises IndexError."""
        if not 0 <= position < len(self.tokens):
            raise IndexError(f"token {position} of {len(self.tokens)}")
        document = int(np.searchsorted(self.starts, position, side="right")) - 1
        return document, position - int(self.starts[document])


def _hash_of(columns: Iterable[str]) -> str:
    """The hash of a text, from the SHA-256 (hex) of its tokens, starts, mask ("" without one) and token_bytes."""
    return hashlib.sha256(" ".join(columns).encode()).hexdigest()


def write_shards(folder: Path, documents: Iterable[EncodedDocument], *, token_bytes: npt.ArrayLike) -> Shards:
    """Write documents to a new folder and open the folder. On failure nothing is left behind.

    Args:
        folder: The new folder.
        documents: For each document its ids [length] (the beginning token first, if the model uses one), a mask
            [length] with 1 where the loss of predicting the token counts, or None if it counts everywhere, and its
            provenance as JSON can hold it.
        token_bytes: The number of bytes of text that each token stands for [vocab]; see `prepare.token_sizes`.

    Raises:
        InputError: The folder exists, or there are no tokens.
        UnknownToken: An id is outside the vocabulary.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written to.

    >>> documents = [(np.array([0, 3, 4]), None, {"source": "a.txt"}), (np.array([0, 5]), None, {"source": "b.txt"})]
    >>> shards = write_shards(Path("shards"), documents, token_bytes=[0, 1, 1, 2, 2, 3])
    >>> shards.tokens.tolist(), shards.n_documents, shards.bytes
    ([0, 3, 4, 0, 5], 2, 7)
    >>> shards.locate(4), shards.document(1)
    ((1, 1), {'source': 'b.txt'})
    """
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or choose another folder for the tokens.")
    with atomic_folder(folder) as temporary, ExitStack() as files:
        writer = _Writer(temporary, np.asarray(token_bytes, np.uint16), files)
        for ids, mask, provenance in documents:
            writer.add(ids, mask, provenance)
        writer.close()
    return open_shards(folder)


def open_shards(folder: Path) -> Shards:
    """Open a folder that `write_shards` wrote.

    Raises ModelNotFound for any other folder, CorruptFile if the files contradict each other.
    """
    try:
        about = json.loads((folder / "shards.json").read_bytes())
        if about["format"] != _FORMAT:
            raise ValueError("they were written by another version of nextword")
        shards = Shards(
            folder=folder,
            tokens=_mapped(folder / "tokens.npy"),
            starts=_mapped(folder / "starts.npy"),
            mask=_mapped(folder / "mask.npy") if about["masked"] else None,
            token_bytes=_mapped(folder / "token_bytes.npy"),
            bytes=int(about["bytes"]),
            hash=str(about["hash"]),
            _lines=_mapped(folder / "lines.npy"),
        )
        _check(shards, about)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(f"{folder} holds no token shards: {error.filename} is not there.") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise CorruptFile(f"The token shards in {folder} cannot be used ({error}); prepare the text again.") from error
    return shards


def token_dtype(vocab: int) -> np.dtype[Any]:
    """The dtype in which the tokens of a vocabulary are stored."""
    return np.dtype("<u2" if vocab <= _SMALL_VOCAB else "<u4")


class _Writer:
    """The files of a new folder of shards, filled in portions."""

    def __init__(self, folder: Path, token_bytes: npt.NDArray[np.uint16], files: ExitStack) -> None:
        self._folder = folder
        self._token_bytes = token_bytes
        self._files = files
        self._tokens = self._column("tokens", token_dtype(len(token_bytes)))
        self._mask: _Column | None = None
        self._provenances = files.enter_context((folder / "documents.jsonl").open("wb", buffering=1 << 20))
        self._starts, self._lines = array("q", [0]), array("q", [0])
        self._bytes = 0
        self._ids: list[Integers] = []  # of the current portion
        self._masks: list[npt.NDArray[np.uint8] | None] = []
        self._written = 0

    def add(self, ids: Integers, mask: npt.NDArray[np.uint8] | None, provenance: Mapping[str, Any]) -> None:
        assert mask is None or len(mask) == len(ids)
        self._ids.append(ids)
        self._masks.append(mask)
        self._starts.append(self._starts[-1] + len(ids))
        line = json.dumps(provenance).encode() + b"\n"
        self._lines.append(self._lines[-1] + len(line))
        self._provenances.write(line)
        if self._starts[-1] - self._written >= _PORTION_TOKENS:
            self._write_portion()

    def close(self) -> None:
        """Write the last portion and the tables, and flush all files to the disk."""
        self._write_portion()
        if not self._written:
            raise InputError("There is no text to train on: no document gave a token.")
        flush_to_disk(self._provenances)
        starts, token_bytes = self._column("starts", np.dtype("<i8")), self._column("token_bytes", np.dtype("<u2"))
        starts.append(np.frombuffer(self._starts, np.int64))
        token_bytes.append(self._token_bytes)
        lines = self._column("lines", np.dtype("<i8"))
        lines.append(np.frombuffer(self._lines, np.int64)[:-1])
        lines.close()
        seen = [self._tokens.close(), starts.close(), self._mask.close() if self._mask else "", token_bytes.close()]
        about = {
            "format": _FORMAT,
            "vocab": len(self._token_bytes),
            "tokens": self._written,
            "documents": len(self._starts) - 1,
            "bytes": self._bytes,
            "masked": self._mask is not None,
            "hash": _hash_of(seen),
        }
        flushed_write(self._folder / "shards.json", json.dumps(about, indent=2).encode())

    def _write_portion(self) -> None:
        ids = np.concatenate(self._ids) if self._ids else np.empty(0, np.uint32)
        outside = ids[(ids < 0) | (ids >= len(self._token_bytes))]
        if outside.size:
            raise UnknownToken(f"Token {outside[0]} is not in the vocabulary of {len(self._token_bytes)} tokens.")
        self._tokens.append(ids)
        self._bytes += int(self._token_bytes[ids].sum(dtype=np.int64))
        if self._mask is None and any(mask is not None for mask in self._masks):
            self._mask = self._column("mask", np.dtype(np.uint8))
            for start in range(0, self._written, _PORTION_TOKENS):  # the documents so far had none
                self._mask.append(np.ones(min(_PORTION_TOKENS, self._written - start), np.uint8))
        if self._mask is not None:
            for part, mask in zip(self._ids, self._masks, strict=True):
                self._mask.append(np.ones(len(part), np.uint8) if mask is None else mask)
        self._written += len(ids)
        self._ids.clear()
        self._masks.clear()

    def _column(self, name: str, dtype: np.dtype[Any]) -> _Column:
        return _Column(self._files.enter_context((self._folder / f"{name}.npy").open("wb")), dtype)


class _Column:
    """A .npy file of one dimension that grows."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._dtype = dtype
        self._hash = hashlib.sha256()
        self._length = 0
        self._write_header()

    def append(self, values: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, self._dtype).data
        self._file.write(data)
        self._hash.update(data)
        self._length += len(values)

    def close(self) -> str:
        """Complete the file and flush it to the disk; returns the SHA-256 (hex) of its values."""
        end = self._file.tell()
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() + self._length * self._dtype.itemsize == end, "numpy's header must not grow"
        flush_to_disk(self._file)
        self._file.close()
        return self._hash.hexdigest()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _mapped(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _check(shards: Shards, about: Mapping[str, Any]) -> None:
    """Raise ValueError unless the files agree with each other in types and lengths."""
    n_tokens, n_documents = about["tokens"], about["documents"]
    expected = {
        "tokens": (shards.tokens, token_dtype(about["vocab"]), n_tokens),
        "starts": (shards.starts, "<i8", n_documents + 1),
        "mask": (shards.mask, "u1", n_tokens),
        "token_bytes": (shards.token_bytes, "<u2", about["vocab"]),
        "lines": (shards._lines, "<i8", n_documents),
    }
    if not about["masked"]:
        del expected["mask"]
    for name, (column, dtype, length) in expected.items():
        if column is None or column.dtype != dtype or column.shape != (length,):
            raise ValueError(f"{name}.npy is not what shards.json says")
    if shards.starts[0] != 0 or shards.starts[-1] != n_tokens or np.any(np.diff(shards.starts) < 0):
        raise ValueError("starts.npy does not lead through tokens.npy")
