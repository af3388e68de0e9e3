"""Nonsense from Python is refused in one sentence, at once, and what means a list is not taken for its letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextword
from nextword import InputError, Sampling, Scale, SettingError, Steer, UnknownToken

Ask = Callable[[nextword.GPT], Any]
PROMPT = "She ate an apple"


def train(paths: Any, **settings: Any) -> nextword.Run:
    return nextword.start_run(paths, "out", nextword.Budget(steps=1), **settings)


@pytest.fixture(scope="module")
def gpt() -> nextword.GPT:
    return nextword.open("tales", device="cpu")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda gpt: gpt.generate(PROMPT, stop="abc"), "stop strings as a list"),
        (lambda gpt: gpt.bigrams("apple", "pie"), "second words as a list"),
        (lambda gpt: gpt.record(PROMPT, "norm"), "points as a list"),
        (lambda gpt: gpt.record(PROMPT, [3]), "points as a list"),
        (lambda gpt: gpt.predict_each(PROMPT, [Scale("norm", 1)]), "list of sets of edits"),
        (lambda gpt: gpt.explain(PROMPT, 1.5), "text or an id"),
        (lambda gpt: gpt.explain(PROMPT, True), "text or an id"),
        (lambda gpt: gpt.explain(PROMPT, position="2"), "positions 0 to 4"),
        (lambda gpt: gpt.explain(PROMPT, count=1.5), "count must be at least 1"),
        (lambda gpt: gpt.explain(PROMPT, reference=3), "reference must be a text"),
        (lambda gpt: gpt.head_roles(texts=0), "at least one text"),
        (lambda gpt: gpt.head_roles(seed=-1), "seed from 0 on"),
        (lambda gpt: gpt.with_edit(Scale("norm", "0")), "factor is a number"),
        (lambda gpt: gpt.with_edit(Scale("norm", 0, unit="5")), "whole number"),
        (lambda gpt: gpt.with_edit(Scale("norm", 0, positions=1)), "row of them"),
        (lambda gpt: gpt.with_edit(Scale("norm", 0, unit=1.0)), "whole number"),
        (lambda gpt: Steer("norm", "up"), "numbers"),
        (lambda gpt: Steer("norm", np.ones(512, complex)), "real numbers"),
        (lambda gpt: gpt.export("nowhere", to="x"), "hf or gguf"),
        (lambda gpt: gpt.predict(PROMPT).row(10**6), "no token 1000000"),
        (lambda gpt: Sampling(temperature="1"), "temperature must be"),
        (lambda gpt: Sampling(top_k=1.5), "top_k must be"),
        (lambda gpt: Sampling(logit_bias={"a": "x"}), "logit_bias must be"),
        (lambda gpt: nextword.open("tales", weights="int3"), "not 'int3'"),
        (lambda gpt: nextword.open("tales", kv_cache="int3"), "not 'int3'"),
        (lambda gpt: train("world:pantry"), "paths as a list"),
        (lambda gpt: train(["world:pantry"], init="pairs"), "random or bigrams"),
        (lambda gpt: train(["world:pantry"], errors="x"), "errors must be"),
        (lambda gpt: nextword.influences("nowhere", "a", "b", "text"), "documents as a list"),
    ],
)
def test_it_is_refused_in_a_sentence(
    gpt: nextword.GPT, ask: Ask, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, SettingError, UnknownToken), match=said):
        ask(gpt)


def test_edits_may_be_arrays_and_lists(gpt: nextword.GPT) -> None:
    expected = gpt.with_edit(Steer("blocks.3", np.full(512, 0.5, np.float32))).predict(PROMPT)
    found = gpt.with_edit(Steer("blocks.3", [0.5] * 512)).predict(PROMPT)
    assert np.array_equal(found.distribution.logits, expected.distribution.logits)


def test_folders_may_be_texts(tmp_path: Path) -> None:
    run = nextword.start_run(["world:pantry"], str(tmp_path / "run"), nextword.Budget(steps=2), depth=1)
    list(run.train())
    assert nextword.RunFolder(str(tmp_path / "run")).run_steps() == [0, 1, 2]  # type: ignore[arg-type]
    found = nextword.history(f"{tmp_path / 'run'}@1", "She ate an", " apple")
    assert [moment.step for moment in found.moments] == [0, 1]
    with pytest.raises(KeyError, match="was not recorded"):
        nextword.open(tmp_path / "run", device="cpu").record("She", ["norm"])["embed"]
