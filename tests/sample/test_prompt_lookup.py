"""Guesses are worth their rows or are not read, and never change a text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import nextword
from nextword.predict.cpu.engine import CpuSession
from nextword.sample.generation import Generation
from nextword.sample.prompt_lookup import MAX_GUESSES, PromptLookup
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling

SETTINGS = {
    "greedy": Sampling(temperature=0),
    "plain": Sampling(),
    "writing": DEFAULT_SAMPLING,
    "penalties": Sampling(temperature=0.5, repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1),
}
REPEATING = "The cat sat on the mat. The dog sat on the rug. " * 4


def both(monkeypatch: pytest.MonkeyPatch, write: Callable[[], Generation]) -> tuple[Generation, Generation]:
    """The same text with guesses and without."""
    guessed = write().finish()
    with monkeypatch.context() as patch:
        patch.setattr(CpuSession, "batch_invariant", False)
        return guessed, write().finish()


@pytest.mark.parametrize("setting", SETTINGS)
def test_guesses_change_no_bit(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt = nextword.open("tales", device="cpu")
    proposed = 0
    for seed in range(8):
        guessed, plain = both(
            monkeypatch, partial(gpt.generate, REPEATING, max_tokens=60, sampling=SETTINGS[setting], seed=seed)
        )
        assert guessed.tokens == plain.tokens
        assert (guessed.text, guessed.finish_reason) == (plain.text, plain.finish_reason)
        assert plain.proposed == 0
        assert guessed.accepted <= guessed.proposed
        proposed += guessed.proposed
    assert proposed or setting == "penalties"


def test_nor_where_a_text_ends(tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a stop string, at the limit, and where the context of 64 is full."""
    gpt = nextword.open(tiny_folder("qwen3"), device="cpu")
    only = Sampling(logit_bias={5: 1e6})
    for limit in (1, 2, 17, 100):
        guessed, plain = both(monkeypatch, partial(gpt.generate, [5] * 30, max_tokens=limit, sampling=only, seed=0))
        assert (guessed.tokens, guessed.finish_reason) == (plain.tokens, plain.finish_reason)
    assert guessed.accepted > 20
    stop = [guessed.text[:9]]
    guessed, plain = both(monkeypatch, lambda: gpt.generate([5] * 30, sampling=only, stop=stop, seed=0))
    assert (guessed.text, guessed.tokens, plain.finish_reason) == (plain.text, plain.tokens, "stop")


def test_the_longest_and_latest_match_is_the_guess() -> None:
    text = PromptLookup([1, 2, 3, 9, 2, 3, 7, 1, 2, 3])
    assert text._guess(3) == [9, 2, 3]
    assert PromptLookup([4, 4])._guess(3) == [4, 4, 4]
    assert PromptLookup([4])._guess(3) == []


def test_rows_are_read_only_where_they_pay() -> None:
    text = PromptLookup([1, 2])
    assert text.guess(8) == []
    for _ in range(40):
        for id in (1, 2):
            text.push(id)
    assert len(text.guess(100)) == MAX_GUESSES
    assert text.guess(0) == []
    rate = text.rate
    for id in range(100, 120):  # after the first wrong guess, new words have no guess and cost nothing
        text.push(id)
    assert text.rate > 0.8 * rate
    for id in (1, 1, 2, 2, 1, 1, 100, 2, 101, 1, 102, 2, 103, 2, 104, 1, 105, 1):
        text.push(id)
    assert text.guess(8) == []
