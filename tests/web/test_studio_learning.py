"""The studio's learning view: what it tells of runs, and the runs that it starts."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import pytest
import torch

import nextword
from nextword.optimize import preflight
from nextword.plan import Budget
from nextword.run import start
from nextword.web.studio import studio_router
from nextword.web.studio_learning import MOST, Learning
from tests.web.looks import faint, shot
from tests.web.served import call, served

PANTRY = "world:pantry,mb=0.05"
TEXT = "She ate an apple pie. He ate an apple pie. " * 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a known-truth language."""
    out = tmp_path_factory.mktemp("runs") / "pantry"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "_TRIAL_STEPS", 3)
        patch.setattr(preflight, "_COMPILE_FROM", float("inf"))  # it takes half a minute
        list(start([PANTRY], out, Budget(steps=12), depth=1).train())
    torch.set_num_threads(threads)
    return out


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = fastapi.FastAPI()
    folder = tmp_path_factory.mktemp("started")
    app.include_router(studio_router(nextword.open("tales"), threading.Lock(), run=run, runs=folder / "here"))
    with served(app) as address:
        yield address


def test_curves_come_from_the_log_and_have_a_floor(run: Path) -> None:
    learning = Learning(run)
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 13, "bits_per_')
    told = learning.curves("pantry")
    assert [step for step, _ in told["training"]] == list(range(1, 13))
    assert told["checkpoints"] == [0, 1, 2, 4, 8, 12]
    assert 0 < told["floor"] < told["heldout"][-1][1]
    assert told["results"]["steps"] == 12
    json.dumps(told, allow_nan=False)


def test_long_curves_keep_their_ends(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "long"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    lines = [json.dumps({"step": step, "bits_per_byte": 1 / step}) for step in range(1, 10 * MOST)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    curve = Learning(runs=tmp_path).curves("long")["training"]
    assert (len(curve), curve[0][0], curve[-1][0]) == (MOST, 1, 10 * MOST - 1)


def test_a_word_is_as_probable_as_the_last_checkpoint_says(run: Path) -> None:
    told = Learning(run).word("pantry", "She ate an", " apple pie")
    assert [moment["step"] for moment in told["moments"]] == [0, 1, 2, 4, 8, 12]
    gpt = nextword.open(run, device="cpu")
    ids, expected = gpt.tokenizer.encode_prompt("She ate an"), 1.0
    for id in gpt.encode(" apple pie"):
        expected *= gpt.predict(ids).row(id).probability
        ids.append(id)
    assert told["moments"][-1]["probability"] == pytest.approx(expected, rel=1e-3)


def ask(address: str, name: str, **body: Any) -> Any:
    status, answer = call(address, f"/studio/api/{name}", body)
    assert status == 200, answer
    return answer


@pytest.mark.parametrize(
    ("name", "body", "part"),
    [
        ("curves", {"run": "../pantry"}, "no such run"),
        ("word", {"run": "/etc", "prompt": "a", "continuation": "b"}, "no such run"),
        ("word", {"run": "pantry", "prompt": "", "continuation": "b"}, "prompt"),
        ("word", {"run": "pantry", "prompt": "She", "continuation": ""}, "which word"),
        ("word", {"run": "pantry", "prompt": "She " * 3000, "continuation": " ate"}, "context"),
        ("train", {"minutes": 1, "text": "  "}, "nothing to learn"),
        ("train", {"minutes": 1, "world": "../etc"}, "world"),
        ("train", {"minutes": 1e9, "world": "pantry"}, "minutes"),
    ],
)
def test_what_cannot_be_used_is_refused(address: str, name: str, body: Any, part: str) -> None:
    status, answer = call(address, f"/studio/api/{name}", body)
    assert status == 400
    assert part in answer["error"]["message"]


def test_without_a_folder_nothing_is_started(run: Path) -> None:
    app = fastapi.FastAPI()
    app.include_router(studio_router(nextword.open("tales"), threading.Lock(), run=run))
    with served(app) as address:
        assert call(address, "/studio/api/runs")[1] == {
            "runs": ["pantry"],
            "worlds": ["pantry", "hideaway"],
            "training": None,
        }
        assert call(address, "/studio/api/train", {"minutes": 1, "world": "pantry"})[0] == 404


def test_a_run_is_started_on_pasted_text_and_stopped(address: str) -> None:
    assert ask(address, "train", minutes=5, text=TEXT)["state"] == "running"
    status, answer = call(address, "/studio/api/train", {"minutes": 1, "world": "pantry"})
    assert (status, "still training" in answer["error"]["message"]) == (400, True)
    end = time.monotonic() + 30
    while not call(address, "/studio/api/runs")[1]["training"]["said"] and time.monotonic() < end:
        time.sleep(0.1)
    state = ask(address, "stop")
    assert (state["run"], state["state"]) == ("page-1", "stopped"), state
    assert state["said"]


def test_no_run_outlives_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **how: Any) -> None:
            super().__init__(*arguments, **how)
            begun.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    app = fastapi.FastAPI()
    app.include_router(studio_router(nextword.open("tales"), threading.Lock(), runs=tmp_path / "runs"))
    with served(app) as address:
        ask(address, "train", minutes=5, world="pantry")
        assert begun[0].poll() is None
    assert begun[0].poll() is not None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_the_checkpoints_are_scrubbed_through(browser: Any, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/#learning")
    page.select_option("#run", "pantry")
    page.wait_for_selector("studio-curves .curve.heldout, studio-curves .curve.training")
    page.wait_for_selector("studio-word svg")
    assert page.locator("studio-curves .floor").count() == 1
    assert "after 12 steps" in page.inner_text("studio-word")
    page.focus("studio-word input")
    page.keyboard.press("Home")
    assert "after 0 steps" in page.inner_text("studio-word")
    page.click("#start summary")
    page.select_option("#source", "pantry")
    assert page.locator("#paste").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faint(page) == []
    shot(page, f"studio-learning-{width}-{scheme}")
    page.close()
    assert said == []
