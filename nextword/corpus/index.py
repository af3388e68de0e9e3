"""A suffix array over the tokens of a text: the count of a passage, its places, and the tokens that follow it.

A suffix array is the list of all positions of a text, sorted by the suffix that begins there (Manber & Myers, 1993):
the places of a passage are neighbours in the array and are found by bisection. A document ends where the next begins:
tokens that cross the border of two documents are no passage, whatever tokens begin and end a document. Suffixes are
sorted by libdivsufsort over bytes, big-endian, with a symbol smaller than every token after each document.

An index is a folder beside the tokens, which it does not repeat:

    index.json     format, tokens, text (the hash of the text it belongs to), files (sha256 of the others)
    suffixes.npy   uint32 [tokens]: positions, sorted by the tokens from there to the document's end
    buckets.npy    uint32 [largest id + 2]: for each id, the place in suffixes.npy of the first suffix that begins so

Promises: a passage is any sequence of integers, in the vocabulary or not; answers are exact; a query reads a few pages
of memory-mapped files; an index of another text is refused, and a damaged one never answers with a position outside
the text.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.base.atomic import atomic_folder, flushed_write
from nextword.errors import CorruptFile, InputError, ModelNotFound, StaleIndex

Integers = npt.NDArray[np.integer[Any]]
Int64Array = npt.NDArray[np.int64]
_Range = tuple[int, int]  # places in suffixes.npy: from the first to before the second

_ANEW = "build it anew with: nextword index RUN, RUN being the folder whose corpus/ it lies in."
_FORMAT = 1
_COUNTED_TOKENS = 1 << 22  # tokens: counted at a time
_MOST_TOKENS = (1 << 32) - 1  # tokens: of a text; positions are uint32


@dataclass(frozen=True)
class Occurrence:
    """A place at which a passage stands in the text.

    Args:
        document: The document's number, from 0.
        offset: The place of the passage's first token in the document, from 0.
        position: The place of the passage's first token in the whole text, from 0.
    """

    document: int
    offset: int
    position: int


@dataclass(frozen=True, eq=False)
class NextCounts:
    """The number of times that each token follows a passage.

    Args:
        ids: The tokens that follow, ascending [n].
        counts: The number of times that each of `ids` follows, int64 [n].
        ends: The number of times that the document ends after the passage.
    """

    ids: Integers
    counts: Int64Array
    ends: int

    @property
    def total(self) -> int:
        """The number of times that the passage stands in the text."""
        return int(self.counts.sum()) + self.ends

    def of(self, id: int) -> int:
        """The number of times that this token follows."""
        at = bisect_left(self.ids, id)
        return int(self.counts[at]) if at < len(self.ids) and self.ids[at] == id else 0


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index; nothing is read before a query.

    Args:
        folder: The folder of the index.
        tokens: The text's tokens, uint16 or uint32 [n].
        starts: The place in `tokens` at which each document begins, and n, int64 [documents + 1].
        suffixes: The content of suffixes.npy, uint32 [n].
        buckets: The content of buckets.npy, uint32 [largest id + 2].

    >>> tokens, starts = np.array([5, 7, 5, 8, 5, 7, 9], np.uint16), np.array([0, 4, 7])
    >>> index = build_index(Path("index"), tokens, starts, text="a hash of both")
    >>> index.count([5, 7]), index.count([8, 5])  # 8 ends the first document
    (2, 0)
    >>> following = index.next_counts([5])
    >>> dict(zip(following.ids.tolist(), following.counts.tolist())), following.ends
    ({7: 2, 8: 1}, 0)
    >>> index.occurrences([5, 7])
    [Occurrence(document=0, offset=0, position=0), Occurrence(document=1, offset=0, position=4)]
    >>> index.longest_suffix([3, 5, 7])
    2
    """

    folder: Path
    tokens: Integers
    starts: Int64Array
    suffixes: npt.NDArray[np.uint32]
    buckets: npt.NDArray[np.uint32]

    @property
    def n_bytes(self) -> int:
        """Size of tokens and index together, in bytes."""
        return self.tokens.nbytes + self.suffixes.nbytes + self.buckets.nbytes

    def count(self, ids: Sequence[int]) -> int:
        """The number of times that the passage stands in the text; the empty passage stands before each token."""
        low, high = self._find(ids)
        return high - low

    def next_counts(self, ids: Sequence[int]) -> NextCounts:
        """The tokens that follow the passage, over all its places; after the empty passage, every token of the text."""
        if not len(ids):
            counts = np.diff(self.buckets).astype(np.int64)
            (seen,) = np.nonzero(counts)
            return NextCounts(seen, counts[seen], 0)
        low, high = self._find(ids)
        following = self._following(len(ids), 1)
        ends = bisect_left(self.suffixes, [-1], low, high, key=following) - low  # they are sorted before all others
        places = self._positions(low + ends, high) + len(ids)
        if places.size and places.max() >= len(self.tokens):
            raise self._damaged()
        tokens = self.tokens[places]
        first = np.flatnonzero(np.diff(tokens, prepend=-1))  # suffixes are sorted, so equal tokens are neighbours
        return NextCounts(tokens[first], np.diff(first, append=len(tokens)), ends)

    def occurrences(self, ids: Sequence[int], limit: int | None = None) -> list[Occurrence]:
        """The places of the passage in the order of the text; with a limit, only the first `limit` places."""
        positions = self._positions(*self._find(ids))
        if limit is not None and limit < len(positions):
            positions = np.partition(positions, limit)[:limit]
        documents = np.searchsorted(self.starts, positions, side="right") - 1
        places = sorted(zip(positions.tolist(), documents.tolist(), strict=True))
        return [Occurrence(document, at - int(self.starts[document]), at) for at, document in places]

    def longest_suffix(self, ids: Sequence[int], *, support: int = 1) -> int:
        """The length of the longest suffix of `ids` that stands in the text at least `support` times.

        With a support of 1 this suffix is the context of the infinity-gram (Liu et al., 2024).
        """
        known, unknown = 0, len(ids) + 1  # where a passage stands, so does every shorter end of it
        step = 1
        while unknown - known > 1:
            length = min(known + step, (known + unknown) // 2)  # doubling first: most are short
            if self.count(ids[len(ids) - length :]) >= support:
                known, step = length, 2 * step
            else:
                unknown = length
        return known

    def match_lengths(self, ids: Sequence[int]) -> Int64Array:
        """`longest_suffix(ids[: i + 1])` for each i, int64 [len(ids)], in about two searches a token."""
        lengths = np.zeros(len(ids), np.int64)
        length, found = 0, (0, len(self.suffixes))
        for i, id in enumerate(map(int, ids)):
            longer = self._narrow(found, length, [id])
            while longer[0] == longer[1] and length:
                length -= 1
                found = self._find(ids[i - length : i])
                longer = self._narrow(found, length, [id])
            if longer[0] < longer[1]:
                length, found = length + 1, longer
            lengths[i] = length
        return lengths

    def verify(self) -> None:
        """Read the whole index. Raises CorruptFile unless its files have the hashes in index.json."""
        if _read_about(self.folder)["files"] != _digests(self.suffixes, self.buckets):
            raise self._damaged()

    def _find(self, ids: Sequence[int]) -> _Range:
        """The suffixes that begin with the passage."""
        return self._narrow((0, len(self.suffixes)), 0, list(map(int, ids)))

    def _narrow(self, found: _Range, depth: int, rest: list[int]) -> _Range:
        """Of the suffixes `found`, which agree in their first `depth` tokens, those that continue with `rest`."""
        low, high = found
        if rest and depth == 0:
            id, *rest = rest
            depth = 1
            if not 0 <= id < len(self.buckets) - 1:
                return 0, 0
            low, high = int(self.buckets[id]), int(self.buckets[id + 1])
        if not rest:
            return low, high
        following = self._following(depth, len(rest))
        low = bisect_left(self.suffixes, rest, low, high, key=following)
        if low == high or following(self.suffixes[low]) != rest:
            return low, low
        return low, bisect_right(self.suffixes, rest, low, high, key=following)

    def _following(self, depth: int, count: int) -> Any:
        """A function from a position to the `count` tokens that begin `depth` after it, fewer at a document's end."""
        tokens, begins = self.tokens, self._begins

        def following(position: np.uint32) -> list[int]:
            at = int(position) + depth
            ids: list[int] = tokens[at : at + count].tolist()
            if not begins.isdisjoint(ids):  # a document may begin here; looking that up takes longer than all the rest
                end = self.starts[np.searchsorted(self.starts, position, side="right")]
                del ids[max(int(end) - at, 0) :]
            return ids

        return following

    @cached_property
    def _begins(self) -> frozenset[int]:
        """The ids that begin documents."""
        begins = self.starts[:-1][np.diff(self.starts) > 0]
        return frozenset(np.unique(self.tokens[begins]).tolist())

    def _positions(self, low: int, high: int) -> Int64Array:
        positions = self.suffixes[low:high].astype(np.int64)
        if positions.size and positions.max() >= len(self.tokens):
            raise self._damaged()
        return positions

    def _damaged(self) -> CorruptFile:
        return CorruptFile(f"The index in {self.folder} is damaged; {_ANEW}")


def verbatim_spans(lengths: Int64Array, minimum: int) -> list[range]:
    """The maximal passages of a text that stand in the indexed text, in the order of the text.

    Maximal: one token more on either side, and the passage no longer stands in the indexed text. Passages may overlap,
    but none lies in another.

    Args:
        lengths: `Index.match_lengths` of the text, int64 [tokens].
        minimum: The least length of a passage in tokens, 1 or more.

    >>> verbatim_spans(np.array([1, 2, 3, 1, 2]), 2)
    [range(0, 3), range(3, 5)]
    """
    stops = np.arange(1, len(lengths) + 1)
    starts = stops - lengths
    is_last = np.append(starts[1:] > starts[:-1], True)[: len(lengths)]
    chosen = np.flatnonzero(is_last & (lengths >= minimum))
    return [range(start, stop) for start, stop in zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True)]


def copied_share(index: Index, texts: Iterable[Sequence[int]], n: int = 8) -> float:
    """The fraction of the n-grams of some texts that stand in the indexed text; nan if the texts have no n-gram.

    Args:
        index: The index of the other text.
        texts: The ids of each text.
        n: Length of an n-gram in tokens.
    """
    runs = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
    return sum(index.count(run) > 0 for run in runs) / len(runs) if runs else nan


def build_index(folder: Path, tokens: Integers, starts: Int64Array, *, text: str) -> Index:
    """Sort the suffixes of a text and write its index to a new folder.

    Needs about 20 bytes of memory a token (35 where the text has ids above 65534); 42 million tokens take 11 to 15
    seconds on the reference machine. On failure nothing is left behind.

    Args:
        folder: The new folder.
        tokens: The text's tokens, one document after another, uint16 or uint32 [n], n at least 1.
        starts: The place in `tokens` at which each document begins, and n, int64 [documents + 1].
        text: The hash of both, by which an index is known to belong to its text.

    Raises:
        InputError: The text is too long, or the folder exists.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written to.
    """
    assert starts[0] == 0 < starts[-1] == len(tokens)
    if folder.exists():
        raise InputError(f"{folder} exists; remove it to build the index again.")
    if len(tokens) > _MOST_TOKENS:
        raise InputError(f"The text has {len(tokens):,} tokens, but an index holds {_MOST_TOKENS:,}; give less text.")
    tokens = np.asarray(tokens)  # slices of a memory map are slow to make
    buckets = _buckets(tokens)
    suffixes = _sorted_suffixes(tokens, starts, len(buckets) - 2)
    about = {
        "format": _FORMAT,
        "tokens": len(tokens),
        "text": text,
        "files": _digests(suffixes, buckets),
    }
    with atomic_folder(folder) as temporary:
        flushed_write(temporary / "suffixes.npy", lambda file: np.save(file, suffixes, allow_pickle=False))
        flushed_write(temporary / "buckets.npy", lambda file: np.save(file, buckets, allow_pickle=False))
        flushed_write(temporary / "index.json", json.dumps(about, indent=2).encode())
    return open_index(folder, tokens, starts, text=text)


def open_index(folder: Path, tokens: Integers, starts: Int64Array, *, text: str) -> Index:
    """Open the index of a text. Only `Index.verify` reads the whole of its files.

    Args:
        folder: The folder that `build_index` wrote.
        tokens: The text's tokens, uint16 or uint32 [n].
        starts: The place in `tokens` at which each document begins, and n, int64 [documents + 1].
        text: The hash of both.

    Raises:
        ModelNotFound: There is no index in the folder.
        StaleIndex: The index was built for another text.
        CorruptFile: The files of the index contradict each other.
    """
    about = _read_about(folder)
    if about["text"] != text:
        raise StaleIndex(f"The index in {folder} was built for another text; {_ANEW}")
    try:
        index = Index(
            folder,
            np.asarray(tokens),
            np.asarray(starts),
            _mapped(folder / "suffixes.npy", "<u4"),
            _mapped(folder / "buckets.npy", "<u4"),
        )
        if not about["tokens"] == len(tokens) == len(index.suffixes) == index.buckets[-1]:
            raise ValueError("it is not as long as its text")
        if index.buckets[0] != 0 or np.any(index.buckets[1:] < index.buckets[:-1]):
            raise ValueError("buckets.npy does not lead through suffixes.npy")
    except FileNotFoundError as error:
        raise CorruptFile(f"The index in {folder} lacks {error.filename}; {_ANEW}") from error
    except (ValueError, KeyError, IndexError, EOFError) as error:
        raise CorruptFile(f"The index in {folder} cannot be used ({error}); {_ANEW}") from error
    return index


def _sorted_suffixes(tokens: Integers, starts: Int64Array, largest: int) -> npt.NDArray[np.uint32]:
    from pydivsufsort import divsufsort

    n_documents = len(starts) - 1
    symbols = np.insert(tokens.astype(">u4") + np.uint32(1), starts[1:], 0)  # 0 after each document
    width = ((largest + 1).bit_length() + 7) // 8
    data = np.ascontiguousarray(symbols.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 4 - width :])
    del symbols
    order = divsufsort(data.reshape(-1))
    del data
    order = order[order % width == 0][n_documents:]  # whole symbols; the ends of documents are sorted first
    order //= width
    earlier = np.repeat(np.arange(n_documents, dtype=order.dtype), np.diff(starts) + 1)  # ends before each symbol
    order -= earlier[order]
    positions: npt.NDArray[np.uint32] = order.astype("<u4")
    return positions


def _buckets(tokens: Integers) -> npt.NDArray[np.uint32]:
    counts = np.zeros(int(tokens.max()) + 1, np.int64)
    for begin in range(0, len(tokens), _COUNTED_TOKENS):  # bincount copies what it counts to int64
        counts += np.bincount(tokens[begin : begin + _COUNTED_TOKENS], minlength=len(counts))
    return np.append(0, np.cumsum(counts)).astype("<u4")


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
        if about["format"] != _FORMAT or not about.keys() >= {"tokens", "text", "files"}:
            raise ValueError("it was written by another version of nextword")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(f"There is no index in {folder}; build it with: nextword index.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"The index in {folder} cannot be used ({error}); {_ANEW}") from error
    return about


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.ndim != 1 or not len(array):
        raise ValueError(f"{path.name} is not what it should be")
    return np.asarray(array)


def _digests(suffixes: npt.NDArray[Any], buckets: npt.NDArray[Any]) -> dict[str, str]:
    return {
        "suffixes": hashlib.sha256(suffixes.data).hexdigest(),
        "buckets": hashlib.sha256(buckets.data).hexdigest(),
    }
