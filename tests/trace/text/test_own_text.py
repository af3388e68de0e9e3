"""A model's own text: every verb and page finds the same, of a run and of its checkpoints, indexed or not."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.errors import NoDiskRoom
from nextword.optimize import preflight
from nextword.parameters.run_folder import RunFolder
from nextword.trace.text import indexed as module
from nextword.trace.text.indexed import open_indexed, own_text
from nextword.train.plan import Budget
from nextword.train.run import start
from nextword.web.app import create_app
from nextword.web.studio.explain import why
from nextword.web.studio.models import Models
from nextword.web.studio.requests import WhyRequest
from nextword.web.studio.runs import Learning
from nextword.web.studio.views import Views


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "_TRIAL_STEPS", 3)
        list(start(["world:pantry,mb=0.05"], out, Budget(steps=4), depth=1).train())
    torch.set_num_threads(threads)
    return out


@pytest.fixture(params=[False, True], ids=["not indexed", "indexed"])
def run(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(trained, tmp_path / "run")
    if request.param:
        open_indexed(folder)
    return folder


def verb(*words: str) -> Any:
    result = CliRunner().invoke(cli.app, [*words, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def by_pairs(model: str) -> int:
    return int(verb("pairs", "apple", "--with", "pie", "--model", model, "--device", "cpu")["bigrams"][0]["of"])


def by_explain(model: str) -> int:
    payload = verb("explain", "Ann saw an apple", "--token", " pie", "--ablation", "none", "--model", model)
    return int(payload["sources"]["text"]["tokens"])


def by_python(model: str) -> int:
    payload = nextword.open(model, device="cpu").receipt("Ann saw an apple", " pie", ablation="none").to_json()
    return int(payload["sources"]["text"]["tokens"])


def by_the_page(model: str) -> int:
    payload = why(Views(nextword.open(model, device="cpu")), WhyRequest(prompt="Ann saw an apple"))
    assert payload["bigrams"]["rows"][0]["frequency"] is not None
    return int(payload["sources"]["text"]["tokens"])


@pytest.mark.parametrize("name", ["{run}", "{run}@2"])
@pytest.mark.parametrize("ask", [by_explain, by_python, by_the_page])
def test_the_same_text_is_found(run: Path, name: str, ask: Callable[[str], int]) -> None:
    text = RunFolder(run).text()
    assert ask(name.format(run=run)) == len(text.tokens)


@pytest.mark.parametrize("name", ["{run}", "{run}@2"])
def test_pairs_are_counted_in_it(run: Path, name: str) -> None:
    text = open_indexed(shutil.copytree(run, run.parent / "copy"))
    assert by_pairs(name.format(run=run)) == text.index.next_counts(text.tokenizer.encode(" apple")).total


@pytest.mark.parametrize("name", ["{run}", "{run}@2"])
def test_history_reads_it(run: Path, name: str) -> None:
    payload = verb("history", name.format(run=run), "Ann saw an apple", " pie")
    assert [moment["step"] for moment in payload["moments"]] == ([0, 1, 2] if "@" in name else [0, 1, 2, 4])


def test_a_server_indexes_it_before_it_answers(run: Path) -> None:
    app = create_app(nextword.open(run, device="cpu"), name="run")
    app.state.service.scheduler.close(0)
    assert RunFolder(run).index_path.is_dir()


def test_a_page_finds_it_for_a_checkpoint_of_a_listed_run(run: Path) -> None:
    models = Models({"tales": Views(nextword.open("tales"), "tales")}, Learning(run))
    payload = why(models.named("run@2"), WhyRequest(prompt="Ann saw an apple"))
    assert payload["sources"]["text"]["tokens"] == len(RunFolder(run).text().tokens)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    caplog.set_level(logging.INFO, "nextword")
    return lambda: caplog.text


def test_what_takes_long_or_cannot_be_is_told(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")

    def full(*_: object, **__: object) -> None:
        raise NoDiskRoom("There is no room left.")

    with monkeypatch.context() as patch:
        patch.setattr(module, "CHEAP", 10)
        assert own_text(folder) is None
        assert f"nextword index {folder}" in said()
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_index", full)
        assert own_text(folder / "checkpoints" / "step-000002") is None
        assert "cannot be indexed: There is no room left." in said()
    assert own_text(folder) == folder
    assert "Indexing the text of" in said()
    assert own_text(tmp_path) is None


def test_a_receipt_that_was_made_without_it_still_holds(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    receipt = nextword.open(folder, device="cpu").receipt("Ann saw an", ablation="none", traced=False, name=str(folder))
    (tmp_path / "receipt.json").write_text(json.dumps(receipt.to_json()))
    assert verb("replay", str(tmp_path / "receipt.json"), "--device", "cpu")["holds"]
