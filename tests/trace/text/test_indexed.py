"""A text with its index: built when it is missing, cited by title and line, refused when it is another's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nextword import cli
from nextword.cli import terminal
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import CorruptFile, InputError, ModelNotFound, StaleIndex, TokenizerError
from nextword.trace.text.evidence import cite
from nextword.trace.text.indexed import index_files, open_indexed, reindex, training_order
from tests.encode.samples import CORPUS, byte_level

TALES = ("She ate an apple pie.\n\nThen she slept.\n", "Once there was\na fox. It ate\n\n\nan apple pie, too.\n")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Plain text and records."""
    (tmp_path / "plain.txt").write_text(TALES[1])
    records = [{"text": TALES[0], "title": "Pie"}, {"text": TALES[1] + "The end."}]
    (tmp_path / "records.jsonl").write_text("\n" + "\n".join(map(json.dumps, records)))
    return [str(tmp_path / "plain.txt"), str(tmp_path / "records.jsonl")]


@pytest.fixture
def folder(tmp_path: Path, files: list[str]) -> Path:
    index_files(files, byte_level(), tmp_path / "out")
    return tmp_path / "out"


def run(*words: str) -> Any:
    result = CliRunner().invoke(cli.app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_passages_are_cited_by_title_and_line(folder: Path, files: list[str]) -> None:
    text = open_indexed(folder)
    places = cite(text, text.tokenizer.encode(" apple pie"))
    assert [(place.source, place.line, place.title) for place in places] == [
        (files[0], 5, None),  # the line of the file
        (files[1], 2, "Pie"),  # the line of the record
        (files[1], 3, None),
    ]
    for place in places:
        own = text.shards.tokens[text.shards.starts[place.document] :][place.offset :][:1].tolist()
        assert own == text.shards.tokens[place.position : place.position + 1].tolist()
        assert text.tokenizer.token_text(own[0]).startswith(" a")
    (only,) = cite(text, text.tokenizer.encode("Once there was\na"), limit=1)
    assert (only.offset, only.line) == (1, 1)


def test_documents_are_led_by_the_token_that_begins_texts(folder: Path) -> None:
    text = open_indexed(folder)
    assert text.tokenizer.bos_id is not None
    assert text.index.count([text.tokenizer.bos_id]) == text.shards.n_documents == 3
    assert text.index.count(text.tokenizer.encode("Once there", begin=True)) == 2


def test_a_missing_index_is_built(folder: Path) -> None:
    shutil.rmtree(folder / "corpus" / "index")
    said: list[str] = []
    text = open_indexed(folder, spinner=lambda what: said.append(what) or terminal.spinner(what))  # type: ignore[func-returns-value]
    assert text.index.count([]) == len(text.shards.tokens)
    assert said == [f"sorting {len(text.shards.tokens):,} tokens"]
    assert sorted(path.name for path in (folder / "corpus").iterdir()) == ["index", "train"]


def test_a_stale_index_is_refused_until_it_is_built_again(folder: Path, tmp_path: Path, files: list[str]) -> None:
    other = index_files(files[:1], byte_level(), tmp_path / "other")
    shutil.rmtree(folder / "corpus" / "index")
    shutil.copytree(other.folder / "corpus" / "index", folder / "corpus" / "index")
    with pytest.raises(StaleIndex, match="another text"):
        open_indexed(folder)
    text, built = reindex(folder)
    assert built
    assert text.index.count([]) == len(text.shards.tokens)
    assert reindex(folder)[1] is False


def test_a_damaged_index_is_found_by_reindex(folder: Path) -> None:
    path = folder / "corpus" / "index" / "suffixes.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CorruptFile, match="damaged"):
        open_indexed(folder).index.verify()
    assert reindex(folder)[1]
    open_indexed(folder).index.verify()


def test_a_text_cut_by_another_tokenizer_is_refused(folder: Path) -> None:
    open_indexed(folder, tokenizer=byte_level())
    with pytest.raises(StaleIndex, match="another tokenizer"):
        open_indexed(folder, tokenizer=train_bpe([CORPUS], 300))


def test_a_folder_without_text_is_named(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "nowhere"):
        for ask in (open_indexed, reindex, training_order):
            with pytest.raises(ModelNotFound, match="holds no text to trace words back to"):
                ask(where)


def test_text_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" ")
    for paths in ([str(tmp_path / "empty.txt")], [str(tmp_path / "nowhere.txt")]):
        with pytest.raises(InputError):
            index_files(paths, byte_level(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]
    with pytest.raises(InputError, match="exists"):
        index_files([], byte_level(), tmp_path)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path: Path) -> None:
    bare = Tokenizer.from_json(byte_level().without_special())
    with pytest.raises(TokenizerError, match="no special token"):
        index_files(["world:pantry"], bare, tmp_path / "out")


def test_order_needs_the_folder_of_a_run(folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="not the folder of a run"):
        training_order(folder)
    for card in ("[]", "{", '{"recipe": {}}', '{"recipe": {"rows": 1}, "results": null}'):
        (folder / "card.json").write_text(card)
        with pytest.raises(CorruptFile, match=r"card\.json"):
            training_order(folder)


def test_the_verb(tiny_folder: Callable[[str], Path], tmp_path: Path, files: list[str]) -> None:
    model, out = str(tiny_folder("llama")), tmp_path / "out"
    made = run("index", *files, "--model", model, "--out", str(out), "--json")
    assert made.exit_code == 0, made.stderr
    facts = json.loads(made.stdout)
    text = open_indexed(out, tokenizer=Tokenizer.from_folder(model))
    assert facts == {
        "folder": str(out),
        "built": True,
        "seconds": facts["seconds"],
        "tokens": len(text.shards.tokens),
        "documents": 3,
        "bytes": text.index.n_bytes,
    }
    assert "Read 3 documents" in made.stderr
    assert json.loads(run("index", str(out), "--json").stdout)["built"] is False
    assert "the index is there and whole" in run("index", str(out)).stdout
    shutil.rmtree(out / "corpus" / "index")
    assert run("index", str(out)).stdout.endswith(": indexed\n")


def test_wrong_usage_of_the_verb(tmp_path: Path, folder: Path, files: list[str]) -> None:
    for words in ([], files, [str(folder), files[0]], [str(folder), "--model", "m"]):
        assert run("index", *words).exit_code == 2
    nowhere, new = str(tmp_path / "nowhere"), str(tmp_path / "new")
    for words in ([nowhere], files[:1], [*files, "--model", nowhere, "--out", new]):
        refused = run("index", *words)
        assert (refused.exit_code, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)


def test_indexing_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from nextword.cli import app; app(['index', sys.argv[1]], standalone_mode=False); "
        "import nextword.trace.text.evidence; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
