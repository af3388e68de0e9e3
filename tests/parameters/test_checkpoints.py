"""Checkpoints keep exact bits, and only whole ones can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextword.errors import CorruptFile
from nextword.parameters import checkpoints as module
from nextword.parameters.checkpoints import Checkpoint
from nextword.parameters.run_folder import RunFolder

TENSORS = {"a": np.array([[0.1, -0.0], [np.nan, np.inf]], np.float32), "b": np.zeros(0, np.float32).reshape(0, 3)}
NUMBERS = {"step": 3, "corrections": [{"step": 1, "steps": 9}], "seconds": 0.1}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    RunFolder(tmp_path).save(3, Checkpoint(TENSORS, NUMBERS))
    loaded = RunFolder(tmp_path).checkpoint(3)
    assert loaded.numbers == NUMBERS
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert (loaded.tensors[name].dtype, loaded.tensors[name].shape) == (array.dtype, array.shape)
        assert loaded.tensors[name].tobytes() == array.tobytes()


def test_steps_are_listed_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).steps() == []
    for step in (1_000_000, 0, 999_999, 2):
        RunFolder(tmp_path).save(step, Checkpoint(TENSORS, NUMBERS))
    for name in (".step-000007.tmp", "step-000007.old", "step-7"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert RunFolder(tmp_path).steps() == [0, 2, 999_999, 1_000_000]


def test_one_that_is_there_is_kept(tmp_path: Path) -> None:
    RunFolder(tmp_path).save(3, Checkpoint(TENSORS, NUMBERS))
    RunFolder(tmp_path).save(3, Checkpoint({}, {}))
    assert RunFolder(tmp_path).checkpoint(3).numbers == NUMBERS


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    RunFolder(tmp_path).save(1, Checkpoint(TENSORS, NUMBERS))
    monkeypatch.setattr(module, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path).save(2, Checkpoint(TENSORS, NUMBERS))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


@pytest.mark.parametrize("damage", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("content", [None, b"", b"[1]"])
def test_a_damaged_one_is_refused_in_one_sentence(tmp_path: Path, damage: str, content: bytes | None) -> None:
    RunFolder(tmp_path).save(3, Checkpoint(TENSORS, NUMBERS))
    path = tmp_path / "checkpoints" / "step-000003" / damage
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptFile, match="step-000003 cannot be read"):
        RunFolder(tmp_path).checkpoint(3)
