"""The loop: ends, streaming, replay. Referee for greedy text: transformers' generate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import nextword
from nextword.errors import ContextOverflow, EmptyPrompt, SettingError, UnknownToken
from nextword.sample.settings import Sampling
from tests import tiny

Folder = Callable[[str], Path]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def gpt(tiny_folder: Folder) -> nextword.GPT:
    return nextword.open(tiny_folder("qwen3"))


@pytest.mark.parametrize("variant", ["gpt2", "llama", "qwen2", "qwen3", "gpt_neox"])
def test_greedy_text_is_transformers(variant: str, tiny_folder: Folder) -> None:
    prompt = nextword.open(tiny_folder(variant)).encode("She ate an apple")
    ours = nextword.open(tiny_folder(variant)).generate(prompt, max_tokens=30, sampling=GREEDY).finish()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(variant), dtype=torch.float32)
    row = torch.tensor([prompt])
    theirs = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=30, do_sample=False)
    assert [token.id for token in ours.tokens] == theirs[0, len(prompt) :].tolist()


def test_steps_are_the_text_and_the_tokens(gpt: nextword.GPT) -> None:
    generation = gpt.generate("The cat sat", max_tokens=20, seed=3)
    steps = list(generation)
    assert "".join(step.text for step in steps) == generation.text
    assert [step.token for step in steps] == generation.tokens
    assert [token.position for token in generation.tokens] == list(
        range(len(generation.prompt), len(generation.prompt) + 20)
    )
    assert generation.finish_reason == "length"
    assert generation.text == gpt.decode([token.id for token in generation.tokens])


def test_tokens_have_the_probabilities_that_predict_states(gpt: nextword.GPT) -> None:
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.9)
    generation = gpt.generate("The cat sat", max_tokens=5, seed=1, sampling=sampling).finish()
    for token in generation.tokens:
        before = [*generation.prompt, *(c.id for c in generation.tokens if c.position < token.position)]
        row = gpt.predict(before, sampling).row(token.id)
        assert token.probability == pytest.approx(row.probability, rel=1e-4)
        assert token.filtered_probability == pytest.approx(row.filtered_probability, rel=1e-4)
        assert row.removed_by is None


def test_an_end_token_ends_the_text(gpt: nextword.GPT) -> None:
    only_end = Sampling(logit_bias={0: 1e6})
    generation = gpt.generate("The cat", sampling=only_end).finish()
    assert (generation.finish_reason, generation.text, len(generation.tokens)) == ("stop", "", 1)


def test_a_stop_string_spanning_tokens_ends_the_text_and_is_not_shown(gpt: nextword.GPT) -> None:
    free = gpt.generate("The cat sat", max_tokens=40, seed=5).finish()
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 6]
    stopped = gpt.generate("The cat sat", max_tokens=40, seed=5, stop=["never this", stop]).finish()
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_the_context_ends_the_text(gpt: nextword.GPT) -> None:
    """Context 64: 64 tokens can be read, and one more be predicted from them."""
    generation = gpt.generate([5] * 60, max_tokens=100, sampling=Sampling(logit_bias={0: -1e6})).finish()
    assert (generation.finish_reason, len(generation.tokens)) == ("context", 5)


def test_leaving_early_and_going_on(gpt: nextword.GPT) -> None:
    generation = gpt.generate("The cat sat", max_tokens=9, seed=3)
    for step in generation:
        if step.token.position == len(generation.prompt) + 3:
            break
    assert (len(generation.tokens), generation.finish_reason) == (4, None)
    assert generation.finish().text == gpt.generate("The cat sat", max_tokens=9, seed=3).finish().text


def test_without_a_seed_one_is_picked_and_told(gpt: nextword.GPT) -> None:
    first = gpt.generate("The cat", max_tokens=12).finish()
    again = gpt.generate("The cat", max_tokens=12, seed=first.seed).finish()
    assert first.tokens == again.tokens


def test_nonsense_is_refused_in_one_sentence(gpt: nextword.GPT) -> None:
    with pytest.raises(EmptyPrompt):
        gpt.generate("")
    with pytest.raises(EmptyPrompt):
        gpt.predict([])
    with pytest.raises(ContextOverflow, match="65 tokens long"):
        gpt.predict([1] * 65)
    with pytest.raises(ContextOverflow):
        gpt.generate([1] * 65).finish()
    with pytest.raises(UnknownToken, match=f"no token {tiny.VOCAB}"):
        gpt.predict([tiny.VOCAB])
    with pytest.raises(UnknownToken):
        gpt.predict([-1])
    with pytest.raises(SettingError, match="max_tokens"):
        gpt.generate("The cat", max_tokens=0)
    with pytest.raises(SettingError, match="seed"):
        gpt.generate("The cat", seed=-1)
