"""Shards: every token back as it was given, on disk all or nothing, refused when damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode import shards as module
from nextword.encode.shards import EncodedDocument, Shards, open_shards, write_shards
from nextword.errors import CorruptFile, InputError, ModelNotFound, NoDiskRoom, UnknownToken
from tests.damage import DAMAGES, damage

VOCAB = 300
SIZES = np.arange(VOCAB) % 7


def document(ids: list[int], mask: list[int] | None = None, **provenance: Any) -> EncodedDocument:
    return np.array(ids, np.uint32), None if mask is None else np.array(mask, np.uint8), provenance


def some(n: int = 50, *, masked: bool = False, seed: int = 0) -> list[EncodedDocument]:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 40, n)
    return [
        (
            draw.integers(0, VOCAB, length, np.uint32),
            draw.integers(0, 2, length, np.uint8) if masked and i % 3 == 2 else None,
            {"source": "a.txt", "line": i, "title": "Tälé \ud83d", "fields": {"n": str(i)}},
        )
        for i, length in enumerate(lengths)
    ]


def assert_holds(shards: Shards, documents: list[EncodedDocument]) -> None:
    assert shards.n_documents == len(documents)
    assert shards.tokens.tolist() == [id for ids, _, _ in documents for id in ids]
    assert shards.bytes == sum(int(SIZES[ids].sum()) for ids, _, _ in documents)
    masks = [np.ones(len(ids), np.uint8) if mask is None else mask for ids, mask, _ in documents]
    if all(mask is None for _, mask, _ in documents):
        assert shards.mask is None
    else:
        assert shards.mask is not None
        assert shards.mask.tolist() == np.concatenate(masks).tolist()
    for i, (ids, _, provenance) in enumerate(documents):
        assert shards.document(i) == provenance
        assert shards.tokens[shards.starts[i] : shards.starts[i + 1]].tolist() == ids.tolist()


@pytest.mark.parametrize("portion", [1, 100, 1 << 20])
@pytest.mark.parametrize("masked", [False, True])
def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int, masked: bool) -> None:
    monkeypatch.setattr(module, "_PORTION_TOKENS", portion)
    documents = some(masked=masked)
    assert_holds(write_shards(tmp_path / "in" / "shards", iter(documents), token_bytes=SIZES), documents)
    opened = open_shards(tmp_path / "in" / "shards")
    assert_holds(opened, documents)
    assert opened.tokens.dtype == np.uint16
    assert isinstance(opened.tokens, np.memmap)
    assert opened.vocab == VOCAB
    assert opened.token_bytes.tolist() == SIZES.tolist()
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["shards"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any))
@settings(max_examples=25, deadline=None)
def test_every_position_is_found_in_its_document(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    """Documents without a token are possible, and hold no position."""
    shards = write_shards(
        tmp_path_factory.mktemp("any") / "s", [document([1] * length) for length in lengths], token_bytes=SIZES
    )
    expected = [(i, offset) for i, length in enumerate(lengths) for offset in range(length)]
    assert [shards.locate(position) for position in range(len(shards.tokens))] == expected
    for position in (-1, len(expected)):
        with pytest.raises(IndexError):
            shards.locate(position)
    for i in (-1, len(lengths)):
        with pytest.raises(IndexError):
            shards.document(i)


@pytest.mark.parametrize(("vocab", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_large_vocabularies_take_four_bytes_a_token(tmp_path: Path, vocab: int, dtype: str) -> None:
    sizes = np.ones(vocab, np.uint16)
    shards = write_shards(tmp_path / "s", [document([0, vocab - 1])], token_bytes=sizes)
    assert shards.tokens.dtype == dtype
    assert shards.tokens.tolist() == [0, vocab - 1]
    with pytest.raises(UnknownToken, match=str(vocab)):
        write_shards(tmp_path / "t", [document([0, vocab, 1])], token_bytes=sizes)
    with pytest.raises(UnknownToken, match="-1"):
        write_shards(tmp_path / "t", [(np.array([0, -1]), None, {})], token_bytes=sizes)
    assert os.listdir(tmp_path) == ["s"]


def test_the_hash_is_that_of_what_training_sees(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "0", some(), token_bytes=SIZES)
    moved = [(ids, mask, {"source": "elsewhere"}) for ids, mask, _ in some()]
    assert write_shards(tmp_path / "1", moved, token_bytes=SIZES).hash == first.hash
    changed = some()
    changed[7] = (changed[7][0] ^ 1, *changed[7][1:])
    joined = [document([*some()[0][0], *some()[1][0]]), *some()[2:]]
    others = [changed, joined, some(masked=True), some()[:-1]]
    hashes = {write_shards(tmp_path / f"x{i}", other, token_bytes=SIZES).hash for i, other in enumerate(others)} | {
        write_shards(tmp_path / "y", some(), token_bytes=SIZES + 1).hash,
        first.hash,
    }
    assert len(hashes) == 6


def test_writing_is_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a portion of documents is alive at any time."""
    monkeypatch.setattr(module, "_PORTION_TOKENS", 1000)
    alive: list[int] = []

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.pop()

    def documents() -> Iterator[EncodedDocument]:
        for i in range(500):
            alive.append(i)
            assert len(alive) < 25
            yield np.full(100, i % VOCAB, np.uint32).view(Counted), None, {}

    assert len(write_shards(tmp_path / "s", documents(), token_bytes=SIZES).tokens) == 50_000


def test_a_corpus_without_tokens_is_refused(tmp_path: Path) -> None:
    for documents in ([], [document([])]):
        with pytest.raises(InputError, match="no text"):
            write_shards(tmp_path / "s", documents, token_bytes=SIZES)
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", [document([1])], token_bytes=SIZES)
    with pytest.raises(InputError, match="exists"):
        write_shards(tmp_path / "s", [document([2])], token_bytes=SIZES)
    assert open_shards(tmp_path / "s").tokens.tolist() == [1]


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[EncodedDocument]:
        yield from some()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "s", documents(), token_bytes=SIZES)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".s.tmp").mkdir()
    (tmp_path / ".s.tmp" / "mask.npy").write_bytes(b"half of it")
    write_shards(tmp_path / "s", some(), token_bytes=SIZES)
    assert os.listdir(tmp_path) == ["s"]
    assert not (tmp_path / "s" / "mask.npy").exists()


def test_a_full_disk_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoDiskRoom, match="no room"):
        write_shards(tmp_path / "s", some(), token_bytes=SIZES)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["shards.json", "tokens.npy", "starts.npy", "mask.npy", "token_bytes.npy", "lines.npy"]
)
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_shards_are_refused(tmp_path: Path, name: str, how: str) -> None:
    write_shards(tmp_path / "s", some(masked=True), token_bytes=SIZES)
    path = tmp_path / "s" / name
    damage(path, how, tmp_path / "s" / ("tokens.npy" if name == "starts.npy" else "starts.npy"))
    with pytest.raises((CorruptFile, ModelNotFound), match="token shards in|holds no token shards"):
        open_shards(tmp_path / "s")


@pytest.mark.parametrize("about", ["[]", "7", "{}", '{"format": 1}', '{"format": 1, "masked": false, "vocab": "x"}'])
def test_a_description_of_the_wrong_kind_is_refused(tmp_path: Path, about: str) -> None:
    write_shards(tmp_path / "s", some(), token_bytes=SIZES)
    (tmp_path / "s" / "shards.json").write_text(about)
    with pytest.raises(CorruptFile):
        open_shards(tmp_path / "s")


def test_starts_that_do_not_lead_through_the_tokens_are_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "s", some(), token_bytes=SIZES)
    starts = np.array(shards.starts)
    starts[3] = starts[-1] + 1
    np.save(tmp_path / "s" / "starts.npy", starts)
    with pytest.raises(CorruptFile, match="starts.npy"):
        open_shards(tmp_path / "s")


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no token shards"):
        open_shards(tmp_path)
    with pytest.raises(ModelNotFound, match="holds no token shards"):
        open_shards(tmp_path / "nowhere")


def test_the_tables_are_plain_numpy_and_json(tmp_path: Path) -> None:
    """Any tool can read them."""
    write_shards(tmp_path / "s", some(), token_bytes=SIZES)
    assert np.load(tmp_path / "s" / "tokens.npy").tolist() == [id for ids, _, _ in some() for id in ids]
    lines = (tmp_path / "s" / "documents.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(50))
