"""The run folder has one owner: what lies where, its card and log, its checkpoints by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nextword
from nextword.errors import CorruptFile, InputError, ModelNotFound
from nextword.parameters.run_folder import RunFolder, checkpoint_named, open_named, run_named

PACKAGE = Path(nextword.__file__).parent


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("run@64", ("run", 64)),
        ("a@b/run@0", ("a@b/run", 0)),
        ("run", None),
        ("@4", None),
        ("run@", None),
        ("run@-1", None),
        ("run@1.5", None),
        ("run@²", None),
        ("run@" + 30 * "9", None),
    ],
)
def test_a_checkpoint_is_named_by_run_and_step(name: str, found: tuple[str, int] | None) -> None:
    assert checkpoint_named(name) == found


def test_a_run_is_named_by_its_folder_or_up_to_a_step(tmp_path: Path) -> None:
    assert run_named(tmp_path / "run@64") == (tmp_path / "run", 64)
    assert run_named(str(tmp_path / "run")) == (tmp_path / "run", None)
    (tmp_path / "run@64").mkdir()
    assert run_named(tmp_path / "run@64") == (tmp_path / "run@64", None)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not the folder of a run"):
        open_named(f"{tmp_path}@3")
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(InputError, match="no checkpoint after 3 steps; it has them after 1"):
        nextword.open(f"{tmp_path}@3")


def test_a_path_with_an_at_sign_that_exists_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "run@3").mkdir()
    with pytest.raises(ModelNotFound, match="config.json cannot be read"):
        open_named(tmp_path / "run@3")


def test_half_written_lines_and_what_is_no_record_are_passed_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert list(run.records()) == []
    run.log_path.write_bytes(b'{"step": 1}\n[1]\nnonsense\n{"step": 2, "level": 0.5}\n{"step": 3, "lo')
    assert list(run.records()) == [{"step": 1}, {"step": 2, "lr_scale": 0.5}]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", '{"format": "new"}'])
def test_a_card_that_cannot_be_read_is_one_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"card\.json cannot be read"):
        RunFolder(tmp_path).card()


def test_nobody_else_knows_what_its_files_are_called() -> None:
    spelled = re.compile(r"""/ ["'](corpus|checkpoints|card\.json|log\.jsonl)["']""")
    owner = PACKAGE / "parameters" / "run_folder.py"
    others = [path for path in PACKAGE.rglob("*.py") if path != owner and spelled.search(path.read_text())]
    assert [path.name for path in others] == ["open.py"], "which only says that a run has no model yet"
