"""What TensorBoard is given to show. Referee: TensorBoard's own reader."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nextword import cli
from nextword.train import clock, run
from tests.train.test_run import WORLD


@pytest.fixture(scope="module", autouse=True)
def _sample_often(quick_training: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_SAMPLE_EVERY", 0.0)
        yield


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own imports
def test_every_figure_of_the_log_is_there_also_after_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    words = ["train", WORLD, "--out", str(out), "--steps", "8", "--depth", "1", "--tensorboard"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_finish", _break)
        assert isinstance(CliRunner().invoke(cli.app, words).exception, ZeroDivisionError)
        for folder in (out / "checkpoints" / "step-000008", out / "checkpoints" / "step-000004"):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()  # so that steps 3 to 8 are taken again
    result = CliRunner().invoke(cli.app, ["train", "--resume", str(out), "--tensorboard"])
    assert result.exit_code == 0, result.stderr
    seen: Any = accumulator.EventAccumulator(str(out / "tensorboard"))
    seen.Reload()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    expected = {
        "bits_per_byte/train": "bits_per_byte",
        "bits_per_byte/heldout": "heldout_bits_per_byte",
        "training/loss": "loss",
        "training/gradient_norm": "gradient_norm",
    }
    for name, key in expected.items():
        shown = [(each.step, each.value) for each in seen.Scalars(name)]
        assert shown == [(line["step"], pytest.approx(line[key], rel=1e-5)) for line in lines if key in line]
    assert "norms/embed.weight" in seen.Tags()["scalars"]
    assert seen.Tags()["tensors"] == ["sample/text_summary"]


def _break(*_: object) -> None:
    raise ZeroDivisionError


def test_where_tensorboard_is_missing_the_extra_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["train", WORLD, "--out", str(tmp_path / "run"), "--steps", "2", "--tensorboard"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 1
    assert "pip install 'nextword[tensorboard]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
