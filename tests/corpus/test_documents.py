"""Reading: every document once, in order, with its place; whatever the bytes are, reading ends and says why."""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.corpus import formats
from nextword.corpus.documents import Document, Message, Report, deduplicate, is_heldout, read_documents
from nextword.errors import InputError


def read(*paths: Path | str, **options: Any) -> tuple[list[Document], Report]:
    report = Report()
    return list(read_documents(paths, report=report, **options)), report


def refused(*paths: Path | str, **options: Any) -> Report:
    """The report of a corpus that turned out to hold no text at all."""
    report = Report()
    with pytest.raises(InputError, match="no text"):
        list(read_documents(paths, report=report, **options))
    return report


def write(path: Path, content: bytes | str | Iterable[Any]) -> Path:
    """Bytes, text, or records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = "".join(json.dumps(record) + "\n" for record in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(documents: Iterable[Document]) -> list[str]:
    return [document.text for document in documents]


def test_a_text_file_is_one_document_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Once upon a time.\nThe end.\n")
    documents, report = read(path)
    assert documents == [Document("Once upon a time.\nThe end.\n", str(path), 1)]
    assert (report.documents, report.bytes) == (1, 27)


def test_records_keep_their_line_their_title_and_their_strings(tmp_path: Path) -> None:
    record = {"id": 7, "title": "A Tale", "author": "Ä", "tags": ["x"], "ok": True, "none": None, "text": "Hello."}
    path = write(tmp_path / "a.jsonl", "\n" + json.dumps(record) + "\n\n" + json.dumps({"text": "Bye."}))
    documents, report = read(path)
    assert documents == [
        Document("Hello.", str(path), 2, "A Tale", {"id": "7", "author": "Ä"}),
        Document("Bye.", str(path), 4),
    ]
    assert documents[0].provenance == {
        "source": str(path),
        "line": 2,
        "title": "A Tale",
        "fields": {"id": "7", "author": "Ä"},
    }
    assert report.skipped == 0


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    (document,), _ = read(write(tmp_path / "a.jsonl", [{"messages": turns, "text": "ignored"}]))
    assert document.messages == (Message("user", "Hi"), Message("assistant", "Hello!"))
    assert document.text == "user: Hi\n\nassistant: Hello!"


def test_folders_are_read_in_the_order_of_names_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "b" / "deep" / "er" / "1.md", "b1")
    write(tmp_path / "b.txt", "b")
    write(tmp_path / "a.TXT", "a")
    write(tmp_path / "c" / "x.jsonl", [{"text": "cx"}])
    write(tmp_path / ".git" / "x.txt", "hidden")
    write(tmp_path / ".hidden.txt", "hidden")
    write(tmp_path / "c" / "picture.png", b"\x89PNG")
    documents, report = read(tmp_path)
    assert texts(documents) == ["a", "b1", "b", "cx"]
    assert report.ignored == 1
    assert documents[1].source == str(tmp_path / "b" / "deep" / "er" / "1.md")


def test_links_are_followed_but_never_round(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.txt", "a")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "real")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "nothing.txt").symlink_to(tmp_path / "gone.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    documents, report = read(tmp_path)
    assert texts(documents) == ["a"]
    assert report.skipped == 2
    assert "nothing.txt" in report.problems[0]
    assert "pipe.txt" in report.problems[1]


def test_line_ends_and_the_byte_order_mark_are_not_text(tmp_path: Path) -> None:
    crlf = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    lines = write(tmp_path / "b.jsonl", b'\xef\xbb\xbf{"text": "four\\r\\n"}\r\n{"text": "five"}\r\n')
    documents, report = read(crlf, lines)
    assert texts(documents) == ["one\ntwo\nthree\n", "four\r\n", "five"]
    assert not report.problems


def test_text_that_is_not_utf8_is_skipped_or_decoded_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "naïve".encode("latin-1"))
    write(tmp_path / "b.txt", "good")
    documents, report = read(tmp_path)
    assert texts(documents) == ["good"]
    assert (report.skipped, report.problems) == (1, [f"{path}: byte 2 (0xef) is not UTF-8."])
    for errors, text in (("latin-1", "naïve"), ("replace", "na\ufffdve")):
        documents, report = read(path, errors=errors)
        assert texts(documents) == [text]
        assert report.skipped == 0
        assert "byte 2 (0xef) is not UTF-8" in report.problems[0]


def test_the_byte_offset_is_that_in_the_file(tmp_path: Path) -> None:
    first = b'\xef\xbb\xbf{"text": "a"}\n'
    path = write(tmp_path / "a.jsonl", first + b'{"text": "\xff"}\n{"text": "b"}\n')
    documents, report = read(path)
    assert texts(documents) == ["a", "b"]
    assert report.problems == [f"{path}:2: byte {len(first) + 10} (0xff) is not UTF-8."]


@pytest.mark.parametrize(
    "content", [b"\x7fELF\x02\x01\x00\x00", "tale".encode("utf-16-le"), random.Random(0).randbytes(999)]
)
def test_a_binary_file_called_txt_is_not_read_as_text(tmp_path: Path, content: bytes) -> None:
    report = refused(write(tmp_path / "a.txt", content))
    assert report.skipped == 1


def test_empty_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", " \n\t")
    write(tmp_path / "c.jsonl", [{"text": ""}, {"text": "c"}])
    write(tmp_path / "d.jsonl", "")
    documents, report = read(tmp_path)
    assert texts(documents) == ["c"]
    assert (report.documents, report.empty, report.skipped) == (1, 3, 0)


BROKEN = {
    '{"text": "cut': "is not JSON",
    "[]": "is not a JSON object",
    "7": "is not a JSON object",
    "{}": "no `text`",
    '{"text": 7}': "no `text`",
    '{"text": null, "messages": null}': "no `text`",
    '{"text": ["a"]}': "no `text`",
    '{"text": "\\ud83d alone"}': "surrogate",
    '{"messages": []}': "`messages`",
    '{"messages": "hello"}': "`messages`",
    '{"messages": [{"role": "user"}]}': "`role` and `content`",
    '{"messages": [["user", "a"]]}': "`role` and `content`",
    '{"messages": [{"role": "user", "content": ["parts"]}]}': "`role` and `content`",
    "[" * 200_000: "nested too deeply",
    '{"text": "a", "n": ' + "9" * 10_000 + "}": "is not JSON",
}


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:30])
def test_a_broken_record_is_reported_with_its_line_and_its_neighbours_kept(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "before"}\n' + line + '\n{"text": "after"}\n')
    documents, report = read(path)
    assert texts(documents) == ["before", "after"]
    assert report.skipped == 1
    assert report.problems[0].startswith(f"{path}:2: ")
    assert BROKEN[line] in report.problems[0]


def test_strings_that_are_not_text_do_not_reach_titles_and_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "title": "\\ud83d!", "author": "\\ud83d?"}')
    (document,), _ = read(path)
    assert (document.title, document.fields) == ("?!", {"author": "??"})


def test_a_line_too_long_to_hold_is_skipped_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_LONGEST_LINE", 100)
    lines = [{"text": "a" * size} for size in (10, 87, 88, 250, 12)]
    documents, report = read(write(tmp_path / "a.jsonl", [*lines, {"text": "b" * 500}]))
    assert [len(text) for text in texts(documents)] == [10, 87, 12]
    assert [problem.partition(" ")[0][-2:] for problem in report.problems] == ["3:", "4:", "6:"]
    path = write(tmp_path / "b.jsonl", b'{"text": "' + b"c" * 700 + b'"}\n{"text": "\xff"}')
    assert "byte 723" in refused(path).problems[1], "offsets count what was skipped"


def test_a_line_of_megabytes_is_one_document(tmp_path: Path) -> None:
    text = "word " * 1_000_000
    assert texts(read(write(tmp_path / "a.jsonl", [{"text": text}, {"text": "b"}]))[0]) == [text, "b"]


def packed(n: int = 2000) -> tuple[list[str], bytes]:
    draw = random.Random(n)
    lines = [f"{i} {draw.randbytes(8).hex()}" for i in range(n)]
    return lines, gzip.compress("".join(json.dumps({"text": line}) + "\n" for line in lines).encode())


def test_compressed_records_are_read_members_one_after_another(tmp_path: Path) -> None:
    (first, one), (second, two) = packed(20), packed(20)
    documents, _ = read(write(tmp_path / "a.jsonl.gz", one + two))
    assert texts(documents) == first + second
    assert documents[-1].line == 40


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_a_compressed_file_cut_short_gives_what_can_be_read(tmp_path: Path, share: float) -> None:
    lines, data = packed()
    write(tmp_path / "z.txt", "last")
    path = write(tmp_path / "a.jsonl.gz", data[: max(5, int(share * len(data)))])
    documents, report = read(tmp_path)
    found = texts(documents)[:-1]
    assert found == lines[: len(found)]
    assert len(found) >= (share - 0.1) * len(lines)
    assert (report.skipped, report.problems) == (
        1,
        [f"{path}:{len(found) + 1}: the compressed file is cut short here; what comes before is used."],
    )


def test_a_damaged_compressed_file_gives_what_comes_before(tmp_path: Path) -> None:
    lines, data = packed()
    middle = len(data) // 2
    write(tmp_path / "a.jsonl.gz", data[:middle] + bytes(byte ^ 255 for byte in data[middle:]))
    documents, report = read(tmp_path)
    assert 500 < len(documents) < 1500
    assert texts(documents)[:500] == lines[:500]
    assert report.skipped
    wrong_checksum = write(tmp_path / "c.jsonl.gz", data[:-8] + bytes(8))
    documents, report = read(wrong_checksum)
    assert texts(documents) == lines
    assert report.problems[0].startswith(f"{wrong_checksum}:2001: the compressed file is damaged here (CRC")
    assert "damaged" in refused(write(tmp_path / "b.jsonl.gz", "not compressed")).problems[0]


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".jsonl", ".jsonl.gz"]), gz=st.booleans())
@settings(deadline=None)
def test_reading_ends_whatever_the_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, gz: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if gz else data)
    report = Report()
    documents = []
    try:
        for document in read_documents([path], report=report):
            documents.append(document)
    except InputError:
        assert not documents
    for document in documents:
        document.text.encode()


def test_an_unreadable_file_or_folder_is_reported_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by a stand-in: whoever runs the tests may be allowed to read everything."""
    secret, locked = write(tmp_path / "a.txt", "secret"), write(tmp_path / "b" / "x.txt", "x").parent
    write(tmp_path / "c.txt", "open")
    read_bytes, listdir = Path.read_bytes, os.listdir

    def deny(path: Path) -> bytes:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    def deny_folder(path: Path) -> list[str]:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(Path, "read_bytes", deny)
    monkeypatch.setattr(os, "listdir", deny_folder)
    documents, report = read(tmp_path)
    assert texts(documents) == ["open"]
    assert sorted(report.problems) == [
        f"{secret}: cannot be read (Permission denied).",
        f"{locked}: cannot be read (Permission denied).",
    ]


def test_paths_that_cannot_be_read_are_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.pdf", b"%PDF")
    for path, reason in (
        (tmp_path / "a.pdf", "not of a kind"),
        (tmp_path / "gone.txt", "no file or folder"),
        ("gone", "no file or folder"),
        ("folder/gone.txt", "no file or folder"),
        ("world:nowhere", "world:pantry"),
    ):
        with pytest.raises(InputError, match=reason):
            read_documents([path], report=Report())


def test_a_corpus_without_text_is_one_clear_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"\xff")
    report = Report()
    advice = "To read text that is not UTF-8 all the same, give --not-utf8 latin-1 or --not-utf8 replace"
    reason = rf"^There is no text in .*; nextword reads .*byte 0 \(0xff\) is not UTF-8\. {advice}\.$"
    with pytest.raises(InputError, match=reason):
        list(read_documents([tmp_path], report=report))
    refused(write(tmp_path / "empty.txt", ""))
    refused()


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """The first document comes before the second file is opened."""
    write(tmp_path / "a.txt", "a")
    second = write(tmp_path / "b.txt", "b")
    stream = read_documents([tmp_path], report=Report())
    assert next(stream).text == "a"
    second.write_text("written since")
    assert next(stream).text == "written since"


def test_a_long_text_can_be_cut_into_passages_that_can_be_cited(tmp_path: Path) -> None:
    text = "".join(f"Line {i} of a tale.\n" + "\n" * (i % 3 == 0) for i in range(500))
    path = write(tmp_path / "a.txt", text)
    passages, _ = read(path, passage=600)
    assert "".join(texts(passages)) == text
    assert all(600 <= len(passage.text) < 700 and passage.text.endswith("\n\n") for passage in passages[:-1])
    for passage in passages:
        assert text.splitlines(keepends=True)[passage.line - 1] == passage.text.splitlines(keepends=True)[0]
    assert len(read(write(tmp_path / "b.txt", "one line " * 1000), passage=100)[0]) == 1
    assert len(read(write(tmp_path / "c.txt", "no paragraphs\n" * 1000), passage=100)[0]) == 125


# Duplicates and held-out documents


def test_exact_duplicates_are_removed_across_files_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n")
    write(tmp_path / "b.jsonl", [{"text": "two"}, {"text": " one"}, {"text": "ONE"}])
    write(tmp_path / "c.md", "two")
    report = Report()
    kept = list(deduplicate(read_documents([tmp_path], report=report), report))
    assert texts(kept) == ["one\n", "two", "ONE"]
    assert (report.documents, report.duplicates, report.duplicate_bytes) == (5, 2, 7)
    assert report.repeats == [f"{tmp_path / 'b.jsonl'}:2", f"{tmp_path / 'c.md'}:1"]
    assert any("2 exact duplicates" in line and "b.jsonl:2" in line for line in report.summary())


def test_conversations_that_only_look_the_same_written_out_are_kept() -> None:
    one = Document("", "a", 1, messages=(Message("user", "a\n\nuser: b"),))
    two = Document("", "a", 2, messages=(Message("user", "a"), Message("user", "b")))
    same = Document("", "a", 3, messages=(Message("user", "a"), Message("user", "b")))
    assert [document.line for document in deduplicate([one, two, same], Report())] == [1, 2]


@given(st.text(min_size=1), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_a_document_falls_on_the_same_side_wherever_it_is_found(text: str, share: float, seed: int) -> None:
    here, there = Document(text, "a.txt", 1), Document(f" {text}\n", "b.jsonl", 9, title="x")
    assert is_heldout(here, share, seed=seed) == is_heldout(there, share, seed=seed)
    assert is_heldout(here, 1.0, seed=seed)
    assert not is_heldout(here, 0.0, seed=seed)


def test_the_share_that_is_held_out_is_the_share_asked_for_and_the_seed_chooses() -> None:
    documents = [Document(f"document {i}", "a", i) for i in range(4000)]
    sides = [[is_heldout(document, 0.1, seed=seed) for document in documents] for seed in (0, 1)]
    for side in sides:
        assert 330 < sum(side) < 470
    assert 10 < sum(a and b for a, b in zip(*sides, strict=True)) < 80
    wider = [is_heldout(document, 0.2) for document in documents]
    assert all(wide or not narrow for narrow, wide in zip(sides[0], wider, strict=True))


def test_a_report_keeps_a_few_examples_and_counts_all() -> None:
    report = Report()
    for i in range(1000):
        report.skip(f"a.jsonl:{i}", "is not JSON")
        report.repeat(Document("text", "a.jsonl", i))
    assert (report.skipped, report.duplicates) == (1000, 1000)
    assert len(report.problems) == len(report.repeats) == 20
    assert "and 997 more" in " ".join(report.summary())


# Optional extras


def test_without_pyarrow_parquet_is_refused_at_once_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "b.parquet", b"PAR1")
    with pytest.raises(InputError, match=r"pip install 'nextword\[parquet\]'"):
        read_documents([tmp_path], report=Report())


def test_parquet_tables(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    rows = [{"text": f"text {i}", "title": f"t{i}", "n": i, "raw": b"\xff"} for i in range(300)]
    parquet.write_table(arrow.Table.from_pylist([*rows, {"text": None}]), tmp_path / "a.parquet", row_group_size=70)
    parquet.write_table(arrow.Table.from_pylist([{"messages": turns}]), tmp_path / "b.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path / "c.parquet", whole[: len(whole) // 2])
    write(tmp_path / "d.parquet", b"")
    documents, report = read(tmp_path)
    assert texts(documents[:300]) == [f"text {i}" for i in range(300)]
    assert documents[299] == Document("text 299", str(tmp_path / "a.parquet"), 300, "t299", {"n": "299"})
    assert documents[300].messages == (Message("user", "Hi"), Message("assistant", "Hello!"))
    assert (len(documents), report.skipped) == (301, 3)


def test_hugging_face_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"no file or folder some/data.*pip install 'nextword\[datasets\]'"):
        read_documents(["some/data"], report=Report())

    def load_dataset(name: str, *, split: str, streaming: bool) -> Iterable[dict[str, object]]:
        assert (split, streaming) == ("train", True)
        if name == "some/gone":
            raise FileNotFoundError("no such data set\nat all")
        return iter([{"text": "one"}, {"label": 1}, {"text": "three", "title": "T"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    documents, report = read("some/data")
    assert documents == [Document("one", "some/data", 1), Document("three", "some/data", 3, "T")]
    assert report.problems == ["some/data:2: has no `text` that is a string, and no `messages`."]
    with pytest.raises(InputError, match="some/gone cannot be read .*: no such data set$"):
        read("some/gone")
