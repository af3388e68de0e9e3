"""The studio's learning view: what it tells of runs, and the runs that it starts."""

from __future__ import annotations

import json
import shutil
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
from nextword.corpus.worlds import WORLDS, world
from nextword.errors import CorruptFile
from nextword.optimize import preflight
from nextword.train.plan import Budget
from nextword.train.run import start
from nextword.web.studio.models import Models
from nextword.web.studio.routes import studio_router
from nextword.web.studio.runs import CURVE_POINTS, Learning, _truth
from nextword.web.studio.views import Views
from tests.web.looks import faint, shot, unnamed, wait_until
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
    reply = learning.curves("pantry")
    assert [step for step, _ in reply["training"]] == list(range(1, 13))
    assert reply["checkpoints"] == [0, 1, 2, 4, 8, 12]
    assert 0 < reply["floor"] < reply["heldout"][-1][1]
    assert reply["results"]["steps"] == 12
    json.dumps(reply, allow_nan=False)


def test_long_curves_keep_their_ends(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "long"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    lines = [json.dumps({"step": step, "bits_per_byte": 1 / step}) for step in range(1, 10 * CURVE_POINTS)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    curve = Learning(runs=tmp_path).curves("long")["training"]
    assert (len(curve), curve[0][0], curve[-1][0]) == (CURVE_POINTS, 1, 10 * CURVE_POINTS - 1)


def test_a_word_is_as_probable_as_the_last_checkpoint_says(run: Path) -> None:
    reply = Learning(run).word("pantry", "She ate an", " apple pie")
    assert [moment["step"] for moment in reply["moments"]] == [0, 1, 2, 4, 8, 12]
    gpt = nextword.open(run, device="cpu")
    ids, expected = gpt.tokenizer.encode_prompt("She ate an"), 1.0
    for id in gpt.encode(" apple pie"):
        expected *= gpt.predict(ids).row(id).probability
        ids.append(id)
    assert reply["moments"][-1]["probability"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("prompt", "continuation", "truth"),
    [
        ("Ann saw an apple", " pie", 0.7),
        ("Ann saw an apple", " pie.", 0.7 * 0.8),
        ("Ann saw an apple", " plum", 0.0),
        ("", "Ann", 0.3),
        ("She ate an apple", " pie", None),  # no text of this language
        ("Ann saw an app", "le", None),  # no whole words
        ("Ann saw an apple", " pi", None),
        ("Ann saw an apple", "  pie", None),
    ],
)
def test_the_truth_is_the_rules(prompt: str, continuation: str, truth: float | None) -> None:
    reply = _truth(world("pantry"), prompt, continuation)
    assert reply == (truth if truth is None else pytest.approx(truth))
    assert _truth(None, prompt, continuation) is None


def test_what_is_worth_watching_has_a_truth(run: Path) -> None:
    for name in WORLDS:
        questions = world(name).questions
        assert questions
        assert all(_truth(world(name), prompt, continuation) for prompt, continuation in questions)
    learning = Learning(run)
    watched = learning.curves("pantry")["watch"]
    assert watched[0] == {"prompt": "Ann saw an apple", "continuation": " pie"}
    assert learning.word("pantry", **watched[0])["truth"] == pytest.approx(0.7)
    assert learning.word("pantry", "She ate an apple", " pie")["truth"] is None


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


def test_a_checkpoint_is_a_model_like_any_other(address: str, run: Path) -> None:
    reply = ask(address, "model", model="pantry@12")
    assert reply["checkpoint"] == {"run": "pantry", "step": 12}
    assert reply["runs"]["pantry"] == [0, 1, 2, 4, 8, 12]
    rows = ask(address, "distribution", model="pantry@12", prompt="She ate an", temperature=1)["distribution"]["rows"]
    prediction = nextword.open(run, device="cpu").predict("She ate an")
    assert rows[0]["probability"] == pytest.approx(prediction.row(rows[0]["id"]).probability, rel=1e-3)
    untaught = ask(address, "distribution", model="pantry@0", prompt="She ate an", temperature=1)["distribution"][
        "rows"
    ]
    assert untaught[0]["probability"] < rows[0]["probability"]
    assert ask(address, "why", model="pantry@4", prompt="She ate an")["why"]["components"]
    for name in ("pantry@3", "pantry@", "pantry@-1", "../pantry@4", "@4", "pantry@" + 30 * "9", "pantry@²"):
        assert call(address, "/studio/api/distribution", {"model": name, "prompt": "She"})[0] == 400


def test_only_a_few_checkpoints_stay_in_memory(run: Path) -> None:
    models = Models({"tales": Views(nextword.open("tales"), "tales")}, Learning(run))
    views = [models.named(f"pantry@{step}") for step in (0, 1, 2, 4)]
    assert models.named("pantry@4") is views[3]
    assert models.named("pantry@0") is not views[0]


def test_a_checkpoint_that_is_damaged_is_told(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "pantry"
    shutil.copytree(run, copied)
    (copied / "checkpoints" / "step-000004" / "state.json").write_text("{}")
    with pytest.raises(CorruptFile, match="after 4 steps"):
        nextword.open(f"{copied}@4")


def test_the_difference_of_two_checkpoints_adds_up(address: str) -> None:
    left, right = ({"prompt": "She ate an", "model": f"pantry@{step}"} for step in (1, 12))
    reply = ask(address, "compare", left=left, right=right)
    assert reply["alike"]
    id = reply["rows"][0]["ids"]["right"]
    parts = ask(address, "difference", left=left, right=right, token=id)
    scores = [
        {row["id"]: row["logit"] for row in ask(address, "distribution", **side, rows=200)["distribution"]["rows"]}[id]
        for side in (left, right)
    ]
    assert parts["change"]["total"] == pytest.approx(scores[1] - scores[0], abs=1e-3)
    assert sum(component["change"] for component in parts["components"]) + parts["rest"] + parts["change"][
        "remainder"
    ] == pytest.approx(parts["change"]["total"], abs=1e-6)
    other = {"prompt": "She ate an"}
    assert not ask(address, "compare", left=left, right=other)["alike"]
    assert call(address, "/studio/api/difference", {"left": left, "right": other, "token": 1})[0] == 400
    assert call(address, "/studio/api/difference", {"left": left, "right": right, "token": 10**6})[0] == 400


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
    page.wait_for_selector("#watched svg")
    assert page.locator("studio-curves .floor").count() == 1
    assert page.locator("studio-curves .forecast").count() == 1
    assert "true probability is 70" in page.inner_text("#watched")
    page.locator("#pairs button", has_text="plum → jam").click()
    page.locator("#watched", has_text="true probability is 40").wait_for()
    assert page.input_value("#watch-prompt") == "Ben drew a plum"
    assert "after 12 steps" in page.inner_text("#watched")
    page.focus("#watched input")
    page.keyboard.press("Home")
    assert "after 0 steps" in page.inner_text("#watched")
    page.click("#start summary")
    page.select_option("#source", "pantry")
    assert page.locator("#paste").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert unnamed(page) == []
    assert faint(page) == []
    shot(page, f"studio-learning-{width}-{scheme}")
    page.close()
    assert said == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_a_checkpoint_is_watched_choosing_and_scrubbed(browser: Any, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/#learning")
    page.wait_for_selector("#watched svg")
    page.locator("#watched button").click()
    page.locator("#checkpoint output", has_text="after 12 steps of pantry").wait_for()
    assert page.input_value("#model") == "pantry@12"
    assert page.input_value("#prompt") == "Ann saw an apple"
    page.click("#ask-why")
    page.wait_for_selector("nw-why li")
    before = page.inner_text("nw-distribution"), page.inner_text("nw-why")
    with page.expect_response("**/api/why"), page.expect_response("**/api/distribution"):
        page.focus("#step")
        page.keyboard.press("Home")
    page.locator("#checkpoint output", has_text="after 0 steps of pantry").wait_for()
    assert wait_until(
        lambda: page.inner_text("nw-distribution") != before[0] and page.inner_text("nw-why") != before[1]
    )
    page.click("#ask-when button")
    page.wait_for_selector("#when svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert unnamed(page) == []
    assert faint(page) == []
    shot(page, f"studio-checkpoint-{width}-{scheme}")
    page.focus("#when input")
    page.keyboard.press("End")
    page.click("#when button")
    page.locator("#checkpoint output", has_text="after 12 steps of pantry").wait_for()
    page.click('.views a[href="#compare"]')
    page.wait_for_selector("studio-compare li")
    page.fill("#text-left", "She ate an")
    page.fill("#text-right", "She ate an")
    page.select_option("#model-left", "pantry@1")
    page.select_option("#model-right", "pantry@12")
    page.click("#differing summary")
    page.wait_for_selector("studio-difference li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faint(page) == []
    shot(page, f"studio-difference-{width}-{scheme}")
    page.close()
    assert said == []
