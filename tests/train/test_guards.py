"""What goes wrong in training is said in one line, and loses nothing: each trouble once, as a user meets it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from nextword import cli
from nextword.base.atomic import disk_room_needed
from nextword.errors import OutOfMemory
from nextword.optimize import trainer as trainer_module
from nextword.parameters import run_folder
from nextword.parameters.run_folder import RunFolder
from nextword.train import run
from nextword.train.prepare import open_corpus
from nextword.train.run import resume
from tests.train.test_run import WORLD, begin, finish, log, weights

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run before its first step; a text so small that its 12 steps pass the end of it."""
    out = tmp_path_factory.mktemp("prepared") / "run"
    return begin(out, text="world:pantry,mb=0.03").folder


@pytest.fixture(scope="module")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("finished") / "run")
    finish(resume(folder))
    return folder


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "run")


def train(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["train", *map(str, words)])


def begin_by_command(text: Path, out: Path) -> Result:
    return train(text, "--out", out, "--steps", 2, "--depth", 1)


def complaint(result: Result) -> str:
    """The one line that says what is wrong; there is no traceback, and the exit code is 1."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    last = result.stderr.rstrip("\n").splitlines()[-1]
    assert last.startswith("error: "), result.stderr
    return last


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The text


def test_an_empty_corpus_and_one_without_a_single_token_to_predict_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    for text in (tmp_path / "empty.txt", tmp_path / "folder"):
        assert f"There is no text in {text}" in complaint(begin_by_command(text, tmp_path / "run"))
    (tmp_path / "tiny.txt").write_text("Hi")
    assert "too few for one row" in complaint(begin_by_command(tmp_path / "tiny.txt", tmp_path / "run"))
    assert not list(tmp_path.glob("*run*"))


def test_a_corpus_smaller_than_one_context_is_trained_on_with_a_shorter_one(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A cat sat on a mat. A dog lay by.")
    assert begin_by_command(tmp_path / "short.txt", tmp_path / "run").exit_code == 0
    context = json.loads((tmp_path / "run" / "config.json").read_text())["max_position_embeddings"]
    assert 8 <= context < len(open_corpus(tmp_path / "run").text.tokens)


def test_what_is_not_utf8_or_cannot_be_read_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "texts"
    text.mkdir()
    (text / "good.txt").write_text("A cat sat on a mat. A dog lay by. " * 9)
    (text / "latin.txt").write_bytes("Un été à la mer. ".encode("latin-1"))
    (text / "secret.txt").write_text("A secret that nobody may read.")
    original = Path.read_bytes

    def guarded(path: Path) -> bytes:
        if path.name == "secret.txt":  # whoever runs the tests may be allowed to read everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    result = begin_by_command(text, tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "Skipped 2 files" in result.stderr
    assert f"{text / 'latin.txt'}: byte 3 (0xe9) is not UTF-8" in result.stderr
    assert "give --not-utf8 latin-1" in result.stderr
    assert f"{text / 'secret.txt'}: cannot be read (Permission denied)" in result.stderr
    assert json.loads((tmp_path / "run" / "card.json").read_text())["corpus"]["skipped"] == 2
    result = train(text, "--out", tmp_path / "all", "--steps", 2, "--depth", 1, "--not-utf8", "latin-1")
    assert result.exit_code == 0, result.stderr
    corpus = open_corpus(tmp_path / "all")
    assert "Un été à la mer." in corpus.tokenizer.decode(corpus.text.tokens.tolist())
    assert "is not UTF-8; read as Latin-1" in result.stderr
    assert "give --not-utf8" not in result.stderr
    for name, reason in (("latin", "is not UTF-8"), ("secret", "Permission denied")):
        said = complaint(begin_by_command(text / f"{name}.txt", tmp_path / name))
        assert "There is no text in" in said
        assert reason in said
        assert ("give --not-utf8 latin-1 or --not-utf8 replace" in said) == (name == "latin")
        assert not (tmp_path / name).exists()


# The machine


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    said = complaint(begin_by_command(Path(WORLD), tmp_path / "run"))
    assert "no room left on the disk" in said
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_stops_the_run_which_goes_on_later(
    fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(islice(resume(fresh).train(), 8))
    kept = RunFolder(fresh).steps()
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_checkpoint", lambda *_: _no_room(fresh))
        result = train("--resume", fresh)
    assert "no room left" in complaint(result)
    assert f"go on later with: nextword train --resume {fresh}" in result.stderr
    assert RunFolder(fresh).steps() == kept
    finish(resume(fresh))
    assert weights(fresh) == weights(finished)
    assert log(fresh) == log(finished)


def _no_room(folder: Path) -> None:
    with disk_room_needed(folder):
        disk_full()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_log_that_finds_no_room_is_one_line_too(fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trim = run.Run._trim_log

    def full(training: run.Run) -> None:
        trim(training)
        (fresh / "log.jsonl").unlink()
        (fresh / "log.jsonl").symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_trim_log", full)
        assert "no room left" in complaint(train("--resume", fresh))
    (fresh / "log.jsonl").unlink()
    finish(resume(fresh))
    assert weights(fresh) == weights(finished)


@pytest.mark.parametrize(
    "trouble",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 MB, max allowed: 1 MB)."),
        MemoryError(),
    ],
)
def test_memory_that_is_used_up_is_said_and_the_last_checkpoint_is_kept(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    training = resume(fresh)
    events = training.train()
    while training.trainer.step < 6:
        next(events)

    def fail(*_: object) -> Any:
        raise trouble

    monkeypatch.setattr(trainer_module, "cross_entropy", fail)
    with pytest.raises(OutOfMemory, match=r"Step 7 does not fit into the memory of cpu .*--depth"):
        list(events)
    assert RunFolder(fresh).steps() == [0, 1, 2, 4]
    result = train("--resume", fresh)
    assert "Step 5 does not fit" in complaint(result)
    assert "go on later with" in result.stderr


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(trainer_module, "cross_entropy", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        list(resume(fresh).train())


def test_a_loss_that_is_no_number_stops_names_its_step_and_keeps_the_weights_before_it(
    fresh: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = trainer_module.cross_entropy, iter(range(99))

    def sick(*arguments: torch.Tensor) -> torch.Tensor:
        return original(*arguments) * (torch.nan if next(count) == 5 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "cross_entropy", sick)
        result = train("--resume", fresh)
    assert "The loss of step 6 is not a finite number" in complaint(result)
    assert RunFolder(fresh).steps() == [0, 1, 2, 4, 5]
    assert json.loads((fresh / "card.json").read_text())["results"] is None
    assert "<svg" in (fresh / "page.html").read_text()
    finish(resume(fresh))
    assert weights(fresh) == weights(finished)


def test_what_a_killed_process_left_behind_is_swept_up(tmp_path: Path, finished: Path) -> None:
    leftover = tmp_path / ".run.tmp" / "corpus"
    leftover.mkdir(parents=True)
    (leftover / "tokens.npy").write_bytes(b"half")
    training = begin(tmp_path / "run")
    assert not leftover.parent.exists()
    assert not (tmp_path / "run" / "corpus" / "tokens.npy").exists()
    (training.folder / ".card.json.1a2b.tmp").write_bytes(b"{")
    half = training.folder / "checkpoints" / ".step-000003.tmp"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    finish(resume(training.folder))
    assert not list(training.folder.rglob("*.tmp"))


# Going on


@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_twice_in_a_row_and_across_an_epochs_end_is_uninterrupted_bit_for_bit(
    prepared: Path, tmp_path: Path, threads: int
) -> None:
    torch.set_num_threads(threads)
    try:
        whole, parts = (shutil.copytree(prepared, tmp_path / name) for name in ("whole", "parts"))
        training = resume(whole)
        epochs, _ = training.trainer._order.rows_of(training.trainer.steps - 1)
        assert epochs.max() >= 1
        finish(training)
        for taken in (0, 0, 1, 3, 5):  # 0: opened, and vanished at once, twice in a row
            trainer = (training := resume(parts)).trainer
            events = training.train(lambda trainer=trainer, enough=trainer.step + taken: trainer.step >= enough)
            list(events) if taken else next(events)
        finish(resume(parts))
    finally:
        torch.set_num_threads(1)
    assert weights(parts) == weights(whole)
    assert log(parts) == log(whole)


def test_the_page_is_written_with_every_checkpoint_and_once_at_the_end(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    original = run.write_page
    monkeypatch.setattr(run, "write_page", lambda folder: written.append(original(folder)))
    finish(resume(fresh))
    assert len(written) == len([1, 2, 4, 8, 12])
