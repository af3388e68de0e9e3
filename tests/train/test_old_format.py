"""Runs that were written before their files bore a format: opened, shown, resumed bit for bit."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest

import nextword
from nextword.errors import CorruptFile
from nextword.parameters.run_folder import FORMAT, RunFolder
from nextword.trace.text.history import trace_history
from nextword.trace.text.indexed import open_indexed, training_order
from nextword.train.counterfactual import start_without
from nextword.train.page.page import write_page
from nextword.train.run import resume
from nextword.web.studio.runs import Learning
from tests.train.old_format import age
from tests.train.test_run import begin, finish, log, weights

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 5 steps."""
    training = begin(tmp_path_factory.mktemp("half") / "run")
    list(islice(training.train(), 9))
    return training.folder


@pytest.fixture(scope="module")
def finished(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(half, tmp_path_factory.mktemp("finished") / "run")
    finish(resume(folder))
    return folder


def test_it_is_resumed_bit_for_bit_and_is_then_one_of_today(half: Path, finished: Path, tmp_path: Path) -> None:
    old = age(shutil.copytree(half, tmp_path / "old"))
    finish(resume(old))
    assert weights(old) == weights(finished)
    assert log(old) == log(finished)
    assert json.loads((old / "card.json").read_text())["format"] == FORMAT
    records = list(RunFolder(old).records())
    assert any("lr_scale" in record for record in records)
    assert not any("level" in record for record in records)
    assert RunFolder(old).card().recipe == RunFolder(finished).card().recipe


def test_it_opens_shows_its_page_curves_and_history(finished: Path, tmp_path: Path) -> None:
    old = age(shutil.copytree(finished, tmp_path / "old"))
    for name in ("", "@4"):
        ours, theirs = (nextword.open(f"{run}{name}").predict("Ann saw").distribution.logits for run in (finished, old))
        assert (ours == theirs).all()
    pages = [write_page(run).read_text() for run in (finished, old)]
    assert pages[0] == pages[1]
    assert Learning(old).curves("old") == Learning(finished).curves("run") | {"name": "old"}
    told = [
        trace_history(run, *_asked(run), open_indexed(run), training_order(run)[0]).to_json(open_indexed(run).tokenizer)
        for run in (finished, old)
    ]
    assert told[0] == told[1]


def _asked(run: Path) -> tuple[list[int], int]:
    tokenizer = RunFolder(run).tokenizer()
    return tokenizer.encode_prompt("Ann saw an apple"), tokenizer.encode_one(" pie")


def test_its_counterfactual_is_that_of_the_same_run(finished: Path, tmp_path: Path) -> None:
    old = age(shutil.copytree(finished, tmp_path / "old"))
    runs = [
        start_without(run, "Ann saw an apple", tmp_path / f"without-{i}")[0] for i, run in enumerate((finished, old))
    ]
    for run in runs:
        finish(run)
    assert weights(runs[0].folder) == weights(runs[1].folder)


def test_a_start_from_bigrams_is_known_by_its_old_key(tmp_path: Path) -> None:
    old = age(begin(tmp_path / "run", init="bigrams", steps=2).folder)
    assert json.loads((old / "card.json").read_text())["recipe"]["from_pairs"] is True
    assert resume(old).recipe.init == "bigrams"


def test_a_format_of_the_future_is_refused(half: Path, tmp_path: Path) -> None:
    new = shutil.copytree(half, tmp_path / "new")
    path = new / "card.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(CorruptFile, match="its format is 99"):
        resume(new)
