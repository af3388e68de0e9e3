"""The index: every answer against its definition read off the text, and damage refused."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.corpus import index as module
from nextword.corpus.index import Index, build_index, copied_share, open_index, verbatim_spans
from nextword.errors import CorruptFile, InputError, ModelNotFound, NoDiskRoom, StaleIndex
from tests.damage import DAMAGES, damage


@dataclass(frozen=True)
class Text:
    """Documents, and the definition of every answer."""

    documents: list[list[int]]

    @property
    def tokens(self) -> list[int]:
        return [id for document in self.documents for id in document]

    @property
    def starts(self) -> list[int]:
        return np.cumsum([0, *map(len, self.documents)]).tolist()

    def places(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(document, offset) of every place; the empty passage stands before each token."""
        return [
            (number, offset)
            for number, document in enumerate(self.documents)
            for offset in range(len(document) - max(len(ids), 1) + 1)
            if document[offset : offset + len(ids)] == list(ids)
        ]

    def next_counts(self, ids: Sequence[int]) -> tuple[dict[int, int], int]:
        after = [self.documents[d][offset + len(ids) :] for d, offset in self.places(ids)]
        return Counter(rest[0] for rest in after if rest), sum(not rest for rest in after)

    def longest(self, ids: Sequence[int], support: int = 1) -> int:
        return max(n for n in range(len(ids) + 1) if n == 0 or len(self.places(ids[len(ids) - n :])) >= support)

    def spans(self, ids: Sequence[int], minimum: int) -> list[range]:
        stands = {
            (start, stop)
            for start in range(len(ids))
            for stop in range(start + 1, len(ids) + 1)
            if self.places(ids[start:stop])
        }
        maximal = [(a, b) for a, b in stands if (a - 1, b) not in stands and (a, b + 1) not in stands]
        return [range(a, b) for a, b in sorted(maximal) if b - a >= minimum]


def built(folder: Path, text: Text, dtype: str = "<u2") -> Index:
    return build_index(folder, np.array(text.tokens, dtype), np.array(text.starts), text="a hash")


def assert_answers(index: Index, text: Text, ids: list[int]) -> None:
    places = text.places(ids)
    assert index.count(ids) == len(places)
    counts, ends = text.next_counts(ids)
    found = index.next_counts(ids)
    assert dict(zip(found.ids.tolist(), found.counts.tolist(), strict=True)) == counts
    assert found.ids.tolist() == sorted(counts)
    assert (found.ends, found.total) == (ends, len(places))
    assert [found.of(id) for id in range(-1, 8)] == [counts.get(id, 0) for id in range(-1, 8)]
    for limit in (None, 0, 1, 3):
        occurrences = index.occurrences(ids, limit)
        assert [(each.document, each.offset) for each in occurrences] == places[:limit]
        assert [each.position for each in occurrences] == [text.starts[d] + offset for d, offset in places[:limit]]
    assert [index.longest_suffix(ids, support=n) for n in (1, 2, 3)] == [text.longest(ids, n) for n in (1, 2, 3)]
    lengths = index.match_lengths(ids)
    assert lengths.tolist() == [text.longest(ids[: i + 1]) for i in range(len(ids))]
    for minimum in (1, 2, 4):
        assert verbatim_spans(lengths, minimum) == text.spans(ids, minimum)
    for n in (1, 2, 3):
        runs = [ids[i : i + n] for i in range(len(ids) - n + 1)]
        share = copied_share(index, [ids], n)
        assert share == sum(bool(text.places(run)) for run in runs) / len(runs) if runs else math.isnan(share)


passages = st.lists(st.integers(0, 3) | st.integers(-(2**70), 2**70), max_size=12)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=8).filter(any),
    st.lists(passages, max_size=4),
    st.sampled_from(["led", "led by a token that also stands elsewhere", "not led"]),
    st.sampled_from([("<u2", 0), ("<u2", 250), ("<u4", 700), ("<u4", 65_532)]),
)
@settings(max_examples=60, deadline=None)
def test_every_answer_is_its_definition(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    asked: list[list[int]],
    kind: str,
    storage: tuple[str, int],
) -> None:
    """Also for empty and one-token documents, tokens that are nowhere, and passages longer than the text."""
    dtype, offset = storage  # 1, 2 and 3 bytes are sorted by a token
    if kind != "not led":
        documents = [[4 if kind == "led" else 2, *document] for document in documents]
    text = Text([[id + offset for id in document] for document in documents])
    index = built(tmp_path_factory.mktemp("any") / "index", text, dtype)
    index.verify()
    assert_answers(index, text, [])
    assert_answers(index, text, text.tokens)
    for ids in asked:
        assert_answers(index, text, [id + offset if 0 <= id < 4 else id for id in ids])
    for document in text.documents[:3]:
        assert_answers(index, text, document[1:6])
        assert_answers(index, text, document[-3:])


def test_one_token_repeated(tmp_path: Path) -> None:
    text = Text([[7] * 300, [7] * 5, [7]])
    index = built(tmp_path / "index", text)
    assert [index.count([7] * n) for n in (1, 2, 5, 6, 300, 301)] == [306, 303, 297, 295, 1, 0]
    found = index.next_counts([7] * 5)
    assert (found.ids.tolist(), found.counts.tolist(), found.ends) == ([7], [295], 2)
    assert index.match_lengths([7] * 400).tolist() == [min(n, 300) for n in range(1, 401)]
    assert verbatim_spans(index.match_lengths([7] * 302), 8) == [range(300), range(1, 301), range(2, 302)]


def test_a_larger_text_with_the_statistics_of_one(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    text = Text([[0, *draw.zipf(1.6, draw.integers(0, 300)).clip(max=500).tolist()] for _ in range(30)])
    index = built(tmp_path / "index", text)
    tokens = text.tokens
    for at in draw.integers(0, len(tokens), 5).tolist():
        for n in (1, 2, 7):
            assert_answers(index, text, tokens[at : at + n])


def test_ids_may_be_numpys(tmp_path: Path) -> None:
    index = built(tmp_path / "index", Text([[1, 2, 3]]))
    ids = np.array([2, 3], np.uint16)
    assert index.count(ids) == 1  # type: ignore[arg-type]
    assert index.match_lengths(ids).tolist() == [1, 2]  # type: ignore[arg-type]


def test_shares_of_several_texts_count_runs_not_texts(tmp_path: Path) -> None:
    index = built(tmp_path / "index", Text([[0, *range(1, 30)]]))
    copied, new = list(range(5, 25)), [9, 1] * 10
    assert copied_share(index, [copied]) == 1
    assert copied_share(index, [new]) == 0
    assert copied_share(index, [copied, new[:9], [1, 2]]) == 13 / 15
    assert math.isnan(copied_share(index, [[1, 2]]))


def test_what_was_built_is_opened(tmp_path: Path) -> None:
    text = Text([[0, 1, 2, 1, 2], [0, 2, 2]])
    built(tmp_path / "index", text)
    tokens, starts = np.array(text.tokens, np.uint16), np.array(text.starts)
    index = open_index(tmp_path / "index", tokens, starts, text="a hash")
    assert_answers(index, text, [1, 2])
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert np.load(tmp_path / "index" / "suffixes.npy").dtype == "<u4"


def test_an_index_of_another_text_is_refused(tmp_path: Path) -> None:
    text = Text([[0, 1, 2]])
    built(tmp_path / "index", text)
    with pytest.raises(StaleIndex, match="another text; build it anew with: nextword index"):
        open_index(tmp_path / "index", np.array(text.tokens), np.array(text.starts), text="another hash")


def test_no_index_is_said_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelNotFound, match="There is no index in"):
            open_index(folder, np.array([1]), np.array([0, 1]), text="a hash")


@pytest.mark.parametrize("name", ["index.json", "suffixes.npy", "buckets.npy"])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_index_is_refused(tmp_path: Path, name: str, how: str) -> None:
    text = Text([[0, 1, 2, 1, 2, 5] * 50])
    built(tmp_path / "index", text)
    path = tmp_path / "index" / name
    damage(path, how, tmp_path / "index" / ("buckets.npy" if name == "suffixes.npy" else "suffixes.npy"))
    with pytest.raises((CorruptFile, ModelNotFound), match=r"The index in .* build|There is no index"):
        open_index(tmp_path / "index", np.array(text.tokens), np.array(text.starts), text="a hash")


@pytest.mark.parametrize("about", ["[]", "7", "{}", '{"format": 1}', '{"format": 1, "text": "a hash", "files": 7}'])
def test_a_description_of_the_wrong_kind_is_refused(tmp_path: Path, about: str) -> None:
    text = Text([[0, 1]])
    built(tmp_path / "index", text)
    (tmp_path / "index" / "index.json").write_text(about)
    with pytest.raises(CorruptFile):
        open_index(tmp_path / "index", np.array(text.tokens), np.array(text.starts), text="a hash")


def test_an_index_shorter_than_its_text_is_refused(tmp_path: Path) -> None:
    built(tmp_path / "index", Text([[0, 1]]))
    with pytest.raises(CorruptFile, match="not as long"):
        open_index(tmp_path / "index", np.array([0, 1, 1]), np.array([0, 3]), text="a hash")


@pytest.mark.parametrize("seed", range(20))
def test_tampered_suffixes_never_lead_out_of_the_text(tmp_path: Path, seed: int) -> None:
    """Answers may be wrong until `verify` is asked, but whatever they cite is in the text."""
    draw = np.random.default_rng(seed)
    text = Text([[0, *draw.integers(1, 4, 40).tolist()] for _ in range(5)])
    built(tmp_path / "index", text)
    suffixes = np.load(tmp_path / "index" / "suffixes.npy")
    suffixes[draw.integers(0, len(suffixes), 20)] = draw.integers(0, 2**32, 20, np.uint32)
    np.save(tmp_path / "index" / "suffixes.npy", suffixes)
    index = open_index(tmp_path / "index", np.array(text.tokens, np.uint16), np.array(text.starts), text="a hash")
    for ids in ([], [0], [1], [1, 2], [3, 3, 1], text.documents[0]):
        for ask in (index.count, index.longest_suffix, index.match_lengths):
            ask(ids)
        try:
            index.next_counts(ids)
            assert all(0 <= each.position < 205 for each in index.occurrences(ids))
        except CorruptFile as error:
            assert "damaged" in str(error)  # noqa: PT017 (either outcome is right)
    with pytest.raises(CorruptFile, match="damaged"):
        index.verify()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    with pytest.raises(InputError, match="exists"):
        built(tmp_path / "index", Text([[1]]))


def test_a_text_too_long_for_the_positions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_TOKENS", 3)
    with pytest.raises(InputError, match="4 tokens, but an index holds 3"):
        built(tmp_path / "index", Text([[1, 2, 3, 4]]))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoDiskRoom):
        built(tmp_path / "index", Text([[1, 2]]))
    assert os.listdir(tmp_path) == []


def test_large_texts_are_counted_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COUNTED_TOKENS", 7)
    text = Text([list(range(20)), [3, 3, 19]])
    assert_answers(built(tmp_path / "index", text), text, [3])


def test_the_files_are_plain_numpy_and_json(tmp_path: Path) -> None:
    """Any tool can read them."""
    built(tmp_path / "index", Text([[1, 0], [1]]))
    suffixes = np.load(tmp_path / "index" / "suffixes.npy").tolist()
    assert suffixes == [1, 2, 0]
    assert np.load(tmp_path / "index" / "buckets.npy").tolist() == [0, 1, 3]
    about: dict[str, Any] = json.loads((tmp_path / "index" / "index.json").read_bytes())
    assert (about["format"], about["tokens"], about["text"]) == (1, 3, "a hash")
