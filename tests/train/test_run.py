"""Training from the command line: text to a folder that others open, stopped and killed without a trace."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.encode.train import train_bpe
from nextword.errors import CorruptFile, Diverged, InputError, ModelNotFound, SettingError
from nextword.optimize import preflight
from nextword.optimize import trainer as trainer_module
from nextword.optimize.evaluate import evaluate
from nextword.optimize.recipe import Rates, Recipe
from nextword.parameters import checkpoints
from nextword.parameters.run_folder import RunFolder
from nextword.train import clock, plan, prepare, run
from nextword.train.events import (
    Corrected,
    EarlierWasBetter,
    Event,
    Finished,
    Measured,
    Sampled,
    Stepped,
    Stopped,
    WeightNorms,
)
from nextword.train.plan import Budget
from nextword.train.prepare import open_corpus
from nextword.train.run import resume, start

WORLD = "world:pantry,mb=0.05"
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_training: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of subprocesses
        patch.setattr(preflight, "_COMPILE_FROM", float("inf"))  # it takes half a minute
        yield


def begin(out: Path, *, text: str = WORLD, steps: int = STEPS, **how: Any) -> run.Run:
    return start([text], out, Budget(steps=steps, until=how.pop("until", None)), **{"depth": 1, **how})


def finish(training: run.Run) -> list[Event]:
    return list(training.train())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run before its first step."""
    return begin(tmp_path_factory.mktemp("prepared") / "run").folder


@pytest.fixture(scope="module")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The same run, never interrupted."""
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("finished") / "run")
    return folder, finish(resume(folder))


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "run")


def log(folder: Path) -> list[dict[str, Any]]:
    """Without what depends on the clock or tells of resuming."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    timing, timed = ("seconds", "tokens_per_second", "mfu"), {"resumed", "sample"}
    return [{k: v for k, v in line.items() if k not in timing} for line in lines if not timed & line.keys()]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# What a run leaves behind


def test_the_run_opens_in_transformers_with_the_same_logits(finished: tuple[Path, list[Event]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = finished
    gpt = nextword.open(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = gpt.encode("Ann saw an apple pie.")
    assert tokenizer.encode("Ann saw an apple pie.", add_special_tokens=False) == ids
    prediction = gpt.predict("Ann saw an apple pie.")
    with torch.no_grad():
        theirs = model(torch.tensor([list(prediction.ids)])).logits[0, -1].numpy()
    assert np.abs(prediction.distribution.logits - theirs).max() <= 1e-4
    assert model.generation_config.eos_token_id in gpt.tokenizer.eos_ids
    assert gpt.generate("Ann saw", max_tokens=5, seed=1).finish().text


def test_a_checkpoint_opens_as_any_model(finished: tuple[Path, list[Event]]) -> None:
    folder, _ = finished
    ask = ["predict", "Ann saw", "--top", "3", "--device", "cpu", "--json", "--model"]
    last, own, early = (
        json.loads(CliRunner().invoke(cli.app, [*ask, name]).stdout)["next"]
        for name in (f"{folder}@{STEPS}", str(folder), f"{folder}@1")
    )
    assert [each["probability"] for each in last] == pytest.approx([each["probability"] for each in own], rel=1e-6)
    assert early[0]["probability"] < own[0]["probability"]
    missing = CliRunner().invoke(cli.app, [*ask, f"{folder}@7"])
    assert missing.exit_code == 1
    assert "no checkpoint after 7 steps; it has them after 0, 1, 2, 4, 8" in missing.stderr


def test_the_card_says_what_was_trained_on_what_and_how_well(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    card, last = json.loads((folder / "card.json").read_text()), events[-1]
    assert isinstance(last, Finished)
    assert card["results"] == last.results
    assert card["results"]["steps"] == STEPS
    assert 0.3 < card["results"]["bits_per_byte"] < 2.5
    corpus = open_corpus(folder)
    assert corpus.hashes() == corpus.stated_hashes()
    assert corpus.heldout is not None
    assert card["corpus"]["paths"] == [WORLD]
    assert card["corpus"]["train"]["hash"] == corpus.text.hash
    assert card["corpus"]["documents"] == corpus.text.n_documents + corpus.heldout.n_documents
    assert (card["nextword"], card["seed"]) == (nextword.__version__, 0)


def test_the_log_has_a_line_for_each_logged_step_and_measurement(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    told = [json.loads(json.dumps(event.record())) for event in events[:-1]]
    assert [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] == told
    assert [event.step for event in events if isinstance(event, Stepped)] == list(range(1, STEPS + 1))
    assert any(isinstance(event, Measured) for event in events)
    assert RunFolder(folder).steps() == [0, 1, 2, 4, 8, 12]


def test_the_weights_are_told_of_and_samples_come_with_time(
    finished: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, events = finished
    told = [event for event in events if isinstance(event, WeightNorms)]
    assert told[0].norms.keys() == told[-1].norms.keys() >= {"embed.weight", "blocks.0.mlp.down.weight"}
    assert not any(isinstance(event, Sampled) for event in events)
    monkeypatch.setattr(clock, "_SAMPLE_EVERY", 0.0)
    (first, *_) = (event for event in begin(tmp_path / "run", steps=4).train() if isinstance(event, Sampled))
    assert first.text


def test_forecast_and_result_stand_side_by_side(finished: tuple[Path, list[Event]]) -> None:
    card = json.loads((finished[0] / "card.json").read_text())
    assert card["forecast"].keys() <= card["results"].keys()
    assert card["forecast"]["bits_per_byte"] == pytest.approx(card["results"]["bits_per_byte"], rel=0.5)
    assert 0 < card["corpus"]["floor_bits_per_byte"] < card["results"]["bits_per_byte"]
    assert "<svg" in (finished[0] / "page.html").read_text()


# Stopping and going on


def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(finished: tuple[Path, list[Event]], fresh: Path) -> None:
    for _ in range(2):
        training = resume(fresh)
        trainer, enough = training.trainer, training.trainer.step + 3
        events = list(training.train(lambda trainer=trainer, enough=enough: trainer.step >= enough))
        assert isinstance(events[-1], Stopped)
    assert RunFolder(fresh).steps()[-1] == 6
    list(islice(resume(fresh).train(), 8))  # goes on for a while, and vanishes without a word
    finish(resume(fresh))
    assert weights(fresh) == weights(finished[0])
    assert log(fresh) == log(finished[0])
    lines = (fresh / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "resumed" in line] == [3, 6, 8]


def command(*words: object) -> subprocess.Popen[str]:
    full = [sys.executable, "-m", "nextword", "train", *map(str, words)]
    return subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], step: int) -> None:
    """Wait until a line tells of this step."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] >= step:
            return


def test_killed_at_random_moments_and_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    """Killed twice at places drawn from the steps; the text is small, so that the run passes many epochs."""
    whole = begin(tmp_path / "whole", steps=200, seed=3).folder
    killed = shutil.copytree(whole, tmp_path / "killed")
    finish(resume(whole))
    moments = random.Random(0)
    for target in sorted(moments.sample(range(1, 100), 2)):
        with command("--resume", killed, "--json") as process:
            read_until(process, target)
            time.sleep(moments.random() * 0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    finish(resume(killed))
    assert weights(killed) == weights(whole)
    assert log(killed) == log(whole)


def test_a_run_that_has_not_ended_is_no_model_and_says_how_to_go_on(fresh: Path) -> None:
    with pytest.raises(ModelNotFound, match="nextword train --resume"):
        nextword.open(fresh)


def test_a_killed_write_leaves_a_log_that_is_mended(fresh: Path, finished: tuple[Path, list[Event]]) -> None:
    list(islice(resume(fresh).train(), 7))
    with (fresh / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "lo')
    finish(resume(fresh))
    assert log(fresh) == log(finished[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(prepared: Path, tmp_path: Path, number: int, code: int) -> None:
    folder = begin(tmp_path / "run", steps=100_000).folder
    with command("--resume", folder, "--json") as process:
        read_until(process, 9)
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    last = json.loads(printed.splitlines()[-1])
    assert not last["done"]
    assert RunFolder(folder).steps()[-1] == last["step"] >= 9
    assert f"nextword train --resume {folder}" in said


def test_stopped_amid_its_measurements_it_finds_the_same_and_tells_it_once(
    finished: tuple[Path, list[Event]], fresh: Path
) -> None:
    stopped = []
    while True:
        asked = count(1)
        last = list(resume(fresh).train(lambda asked=asked: next(asked) == 3))[-1]
        if isinstance(last, Finished):
            break
        assert isinstance(last, Stopped)
        stopped.append(last.step)
    assert stopped[-1] == STEPS  # in the last measurement
    assert weights(fresh) == weights(finished[0])
    assert log(fresh) == log(finished[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(plan, "measure_pace", lambda *what: signal.raise_signal(number))
    told = CliRunner().invoke(cli.app, ["train", WORLD, "--out", str(tmp_path / "run"), "--steps", "2"])
    assert told.exit_code == code
    assert "before there was anything to keep" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_while_the_state_is_saved_spoils_nothing(
    finished: tuple[Path, list[Event]],
    fresh: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    def signalled(tensors: object) -> bytes:
        signal.raise_signal(number)
        signal.raise_signal(number)
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", signalled)
        told = CliRunner().invoke(cli.app, ["train", "--resume", str(fresh), "--json"])
    assert told.exit_code == code
    assert f"nextword train --resume {fresh}" in told.stderr
    assert [path.name for path in (fresh / "checkpoints").iterdir()] == ["step-000000"]
    finish(resume(fresh))
    assert weights(fresh) == weights(finished[0])


def test_a_checkpoint_that_was_better_than_the_end_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates are so high that the last steps spoil what the first have learned."""
    original = Recipe.schedule

    def spoiling(recipe: Recipe, step: int, *rest: Any) -> Rates:
        rates = original(recipe, step, *rest)
        return replace(rates, muon_lr=5.0, adam_lr=5.0) if step >= 8 else rates

    monkeypatch.setattr(Recipe, "schedule", spoiling)
    *_, better, last = finish(resume(fresh))
    assert isinstance(better, EarlierWasBetter)
    assert isinstance(last, Finished)
    assert better.better in (4, 8)
    assert last.results["better"] == {"step": better.better, "bits_per_byte": better.bits_per_byte}
    assert better.bits_per_byte < last.results["bits_per_byte"]
    found = nextword.open(f"{fresh}@{better.better}")
    corpus = open_corpus(fresh)
    assert corpus.heldout is not None
    measured = evaluate(found.reference_model, corpus.heldout, last.results["heldout_tokens"])
    assert better.bits_per_byte == pytest.approx(measured.bits_per_byte)
    assert log(fresh)[-1] == better.record()
    assert f"RUN@{better.better}" in (fresh / "page.html").read_text()


def test_a_step_that_diverges_leaves_the_state_before_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = resume(fresh)
    events = training.train()
    list(islice(events, 3))
    before = training.trainer.step
    original = trainer_module.cross_entropy
    monkeypatch.setattr(trainer_module, "cross_entropy", lambda *arguments: original(*arguments) * torch.inf)
    with pytest.raises(Diverged):
        list(events)
    assert RunFolder(fresh).steps()[-1] == training.trainer.step >= before


# Refusals


def test_a_changed_text_tokenizer_or_recipe_is_refused_by_name(fresh: Path) -> None:
    def refused(path: Path, change: Callable[[bytes], bytes], name: str) -> None:
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        with pytest.raises(InputError, match=f"The {name} of .* no longer what the run began with"):
            resume(fresh)
        path.write_bytes(whole)

    last_token = lambda data: data[:-2] + bytes([data[-2] ^ 1, data[-1]])  # noqa: E731
    refused(fresh / "corpus" / "train" / "tokens.npy", last_token, "text")
    refused(fresh / "corpus" / "heldout" / "tokens.npy", last_token, "held-out text")
    train_bpe(["Another text"], 300).save(fresh.parent)
    refused(fresh / "tokenizer.json", lambda data: (fresh.parent / "tokenizer.json").read_bytes(), "tokenizer")
    refused(fresh / "card.json", lambda data: data.replace(b'"muon_lr": ', b'"muon_lr": 1'), "recipe")
    shutil.rmtree(fresh / "corpus" / "heldout")
    with pytest.raises(InputError, match="The held-out text of"):
        resume(fresh)


def test_what_is_no_run_is_over_or_is_damaged_is_refused(
    finished: tuple[Path, list[Event]], fresh: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="is not the folder of a run"):
        resume(tmp_path)
    with pytest.raises(InputError, match="is finished; try: nextword generate"):
        resume(finished[0])
    with pytest.raises(InputError, match="is not empty.*--resume"):
        begin(fresh)
    (fresh / "card.json").unlink()
    with pytest.raises(CorruptFile, match="card.json cannot be read"):
        resume(fresh)


def test_text_that_cannot_be_trained_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "tiny.txt").write_text("Hi")
    (tmp_path / "short.txt").write_text("A cat sat on a mat.")
    out = tmp_path / "runs" / "run"
    with pytest.raises(InputError, match="There is no text in"):
        begin(out, text=str(tmp_path / "empty.txt"))
    with pytest.raises(InputError, match="There is no file or folder"):
        begin(out, text=str(tmp_path / "nowhere.txt"))
    with pytest.raises(InputError, match="too few for one row of 8"):
        begin(out, text=str(tmp_path / "tiny.txt"))
    with pytest.raises(InputError, match="--until needs held-out text"):
        begin(out, text=str(tmp_path / "short.txt"), until=1.0)
    with pytest.raises(InputError, match="all of it is in the held-out text"):
        begin(out, text=str(tmp_path / "short.txt"), holdout=[str(tmp_path / "short.txt")])
    with pytest.raises(SettingError, match="--depth"):
        begin(out, depth=0)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 1}, {"steps": 0}, {"minutes": -1}, {"minutes": np.nan}])
def test_a_budget_is_one_positive_number(budget: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Budget(**budget)


# Text and time


def test_a_text_shorter_than_a_context_gets_a_shorter_one_and_nothing_is_measured(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A cat sat on a mat. A dog lay by.")
    said: list[str] = []
    training = begin(tmp_path / "run", text=str(tmp_path / "short.txt"), steps=2, on_note=said.append)
    assert training.recipe.architecture.context == 16
    assert any("nothing will be measured" in line for line in said)
    *_, last = finish(training)
    assert isinstance(last, Finished)
    assert last.results["bits_per_byte"] is None


def test_what_is_held_out_is_never_trained_on(tmp_path: Path) -> None:
    train, heldout = tmp_path / "train.jsonl", tmp_path / "heldout.jsonl"
    texts = [f"Document {i} says {'so ' * 20}." for i in range(30)]
    train.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[0]]))
    heldout.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[10:13]))
    said: list[str] = []
    begin(tmp_path / "run", text=str(train), holdout=[str(heldout)], on_note=said.append)
    corpus = open_corpus(tmp_path / "run")
    assert corpus.heldout is not None
    assert [corpus.text.n_documents, corpus.heldout.n_documents] == [27, 3]
    assert "Document 11 " not in corpus.tokenizer.decode(corpus.text.tokens.tolist())
    assert any("1 exact duplicate" in line for line in said)
    assert any("held out: 3 documents" in line for line in said)


def test_it_ends_as_soon_as_a_measurement_reaches_the_target(tmp_path: Path) -> None:
    training = begin(tmp_path / "run", steps=400, until=1.5)
    events = finish(training)
    measured = [event for event in events if isinstance(event, Measured)]
    assert measured[-1].evaluation.bits_per_byte <= 1.5
    assert all(event.evaluation.bits_per_byte > 1.5 for event in measured[:-1])
    corrected = next(event for event in events if isinstance(event, Corrected))
    assert corrected.step == corrected.steps == measured[-1].step


def test_a_start_from_bigrams_is_measured_before_the_first_step_and_may_be_enough(tmp_path: Path) -> None:
    training = begin(tmp_path / "run", init="bigrams", until=1.5)
    measured, corrected, finished = finish(training)
    assert isinstance(measured, Measured)
    assert corrected == Corrected(0, 0)
    assert isinstance(finished, Finished)
    assert finished.results["steps"] == 0
    assert finished.results["bits_per_byte"] <= 1.5
    assert training.forecast["bits_per_byte"] == pytest.approx(finished.results["bits_per_byte"], rel=0.2)
    assert nextword.open(training.folder).generate("Ann saw", max_tokens=5, seed=1).finish().text


def test_minutes_end_on_time_and_corrections_are_kept(tmp_path: Path) -> None:
    began = time.monotonic()
    training = start([WORLD], tmp_path / "run", Budget(minutes=0.08), depth=1)
    training.trainer.recipe = replace(training.recipe, steps=10 * training.recipe.steps)  # a forecast far off
    events = finish(training)
    assert 2 < time.monotonic() - began < 7
    last = events[-1]
    assert isinstance(last, Finished)
    assert any(isinstance(event, Corrected) for event in events)
    assert last.results["corrections"]
    assert last.results["steps"] == last.results["corrections"][-1]["steps"]


def test_minutes_that_are_over_before_the_first_step_give_one_step_and_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    training = start([WORLD], tmp_path / "run", Budget(minutes=0.001), on_note=told.append)
    assert any("over before the first step" in line for line in told)
    last = finish(training)[-1]
    assert isinstance(last, Finished)
    assert last.results["steps"] == 1


def test_a_halt_costs_the_run_time_but_is_not_taken_for_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    for module in (clock, run):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    training = begin(tmp_path / "run", steps=4)
    training.clock.budget = Budget(minutes=10)
    training.trainer.recipe = replace(training.recipe, steps=600)
    for step in range(1, 41):
        training.trainer.step = step
        now += 200.0 if step == 20 else 1.0  # halted for 199 s
        training._keep_time()
    assert 360 <= training.trainer.steps <= 400  # as many as fit into the 599 s that were not lost


def test_what_is_being_done_before_the_first_step_is_told(tmp_path: Path) -> None:
    doing: list[str] = []
    start([WORLD], tmp_path / "run", Budget(steps=1), depth=1, on_progress=doing.append)
    kinds = ("Reading the text:", "Learning a tokenizer", "Writing the tokens", "Trying out")
    firsts = [next(number for number, line in enumerate(doing) if line.startswith(kind)) for kind in kinds]
    assert firsts == sorted(firsts)


def test_what_cannot_be_is_refused_before_the_text_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--depth"):
        start([str(tmp_path / "absent")], tmp_path / "run", Budget(steps=1), depth=0)


@pytest.mark.parametrize(("size", "vocab"), [(1, 1024), (2_000_000, 2048), (49_999_999, 4096), (10**10, 8192)])
def test_the_vocabulary_fits_the_text(size: int, vocab: int) -> None:
    assert prepare.vocabulary(size) == vocab


# The command line


def test_json_is_a_line_per_logged_step_and_a_last_one(tmp_path: Path) -> None:
    words = ["train", WORLD, "--out", str(tmp_path / "run"), "--steps", "3", "--depth", "1", "--seed", "7", "--json"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert {"bits_per_byte", "tokens", "seconds", "tokens_per_second"} <= steps[0].keys()
    assert all(0 < line["mfu"] < 1 for line in steps)
    assert any("heldout_bits_per_byte" in line for line in lines)
    assert lines[-1]["done"] is True
    assert {"bits_per_byte", "heldout_tokens", "steps", "seconds", "tokens_per_second"} <= lines[-1].keys()
    assert "Read " in result.stderr
    assert "Plan: 3 steps of" in result.stderr
    assert json.loads((tmp_path / "run" / "card.json").read_text())["seed"] == 7
    assert load_file(tmp_path / "run" / "model.safetensors")


def test_the_last_lines_say_how_good_it_is_and_what_to_do_next(fresh: Path) -> None:
    result = CliRunner().invoke(cli.app, ["train", "--resume", str(fresh)])
    assert result.exit_code == 0, result.stderr
    assert "bits per byte on held-out text, 12 steps" in result.stdout
    assert result.stdout.endswith(f'nextword generate --model {fresh} "..."\n')
    assert "step 12 of 12" in result.stderr
    assert "% MFU" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        [WORLD, "--out", "x"],
        [WORLD, "--out", "x", "--steps", "1", "--minutes", "1"],
        [WORLD, "--steps", "1"],
        ["--out", "x", "--steps", "1"],
        ["--resume", "x", "--depth", "2"],
        [],
    ],
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["train", *words]).exit_code == 2
