"""Every filter against transformers' own; who removed what against plain formulas; draws against their distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from nextword.errors import ModelError, SettingError
from nextword.sample.draw import check_seed, uniform
from nextword.sample.sampler import distribute, sample_token
from nextword.sample.settings import Sampling


def random_logits(seed: int, vocab: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)


def transformers_probabilities(logits: np.ndarray, s: Sampling, text: list[int]) -> np.ndarray:
    """The probabilities after the same settings, in transformers' order and arithmetic (float64)."""
    scores, ids = torch.tensor(logits, dtype=torch.float64)[None], torch.tensor([text])
    if s.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(s.repetition_penalty)(ids, scores)
    if s.temperature != 1:
        scores = TemperatureLogitsWarper(s.temperature)(ids, scores)
    if s.top_k:
        scores = TopKLogitsWarper(s.top_k)(ids, scores)
    if s.top_p < 1:
        scores = TopPLogitsWarper(s.top_p)(ids, scores)
    if s.min_p > 0:
        scores = MinPLogitsWarper(s.min_p)(ids, scores)
    if s.typical_p < 1:
        scores = TypicalLogitsWarper(s.typical_p)(ids, scores)
    return scores.softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    "one",
    [
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 17},
        {"top_k": 5000},
        {"top_p": 0.1},
        {"top_p": 0.93},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"typical_p": 0.2},
        {"typical_p": 0.95},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
    ],
    ids=str,
)
def test_each_setting_is_transformers(one: dict[str, Any]) -> None:
    for seed in range(5):
        logits, text = random_logits(seed), [3, 7, 7, 190]
        ours = distribute(logits, Sampling(**one), text, len(text) - 2).filtered
        np.testing.assert_allclose(ours, transformers_probabilities(logits, Sampling(**one), text), atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    typical_p=st.floats(0.1, 1),
)
def test_settings_together_are_transformers(seed: int, **chosen: Any) -> None:
    logits, sampling = random_logits(seed), Sampling(**chosen)
    distribution = distribute(logits, sampling)
    np.testing.assert_allclose(distribution.filtered, transformers_probabilities(logits, sampling, [0]), atol=1e-12)
    assert distribution.filtered.sum() == pytest.approx(1, abs=1e-12)
    assert distribution.probability.sum() == pytest.approx(1, abs=1e-12)
    assert ((distribution.filtered > 0) == (distribution.removed_by == 0)).all()
    kept = distribution.probability[distribution.removed_by == 0].sum()
    assert kept + sum(removed.mass for removed in distribution.removed) == pytest.approx(1, abs=1e-12)
    assert sum(removed.tokens for removed in distribution.removed) == (distribution.removed_by > 0).sum()


def test_the_account_names_the_filter_that_removed_each_token() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.04, 0.01], dtype=np.float32))
    distribution = distribute(logits, Sampling(top_k=4, top_p=0.9, min_p=0.4))
    assert [distribution.remover(id) for id in range(5)] == [None, None, "min_p", "top_p", "top_k"]
    assert [removed.filter for removed in distribution.removed] == ["top_k", "top_p", "min_p"]
    assert distribution.filtered[:2] == pytest.approx([0.625, 0.375])
    assert [(r.filter, r.tokens) for r in distribution.removed] == [("top_k", 1), ("top_p", 1), ("min_p", 1)]
    assert [r.mass for r in distribution.removed] == pytest.approx([0.01, 0.04, 0.15])


def test_greedy_takes_the_most_probable_and_the_first_of_equals() -> None:
    logits = np.array([1.0, 4.0, 4.0, 2.0], dtype=np.float32)
    distribution = distribute(logits, Sampling(temperature=0))
    for random in (0.0, 0.5, 0.999999):
        token = sample_token(distribution, random, 0)
        assert (token.id, token.rank, token.filtered_probability) == (1, 1, 1.0)
    assert distribution.remover(2) == "greedy"


def test_presence_and_frequency_penalties_are_openais_formula() -> None:
    """OpenAI: mu[j] - c[j] * frequency - (c[j] > 0) * presence, c counting generated tokens only."""
    logits = random_logits(1, 6)
    distribution = distribute(logits, Sampling(presence_penalty=0.4, frequency_penalty=0.3), [5, 2, 2, 4], 3)
    counts = np.array([0, 0, 2, 0, 1, 0])
    expected = np.exp(logits.astype(np.float64) - counts * 0.3 - (counts > 0) * 0.4)
    np.testing.assert_allclose(distribution.filtered, expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(distribution.probability, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_what_was_only_read_is_not_penalised_as_generated() -> None:
    logits = random_logits(3, 30)
    distribution = distribute(logits, Sampling(presence_penalty=0.4, frequency_penalty=0.3), [5, 2, 2, 4])
    assert np.array_equal(distribution.filtered, distribution.probability)


def test_logit_bias_adds_and_forbids() -> None:
    logits = np.zeros(4, dtype=np.float32)
    distribution = distribute(logits, Sampling(logit_bias={1: math.log(2), 3: -math.inf}))
    assert distribution.filtered == pytest.approx([0.25, 0.5, 0.25, 0])
    with pytest.raises(SettingError, match="forbids every token"):
        distribute(logits, Sampling(logit_bias=dict.fromkeys(range(4), -math.inf)))
    with pytest.raises(SettingError, match="names token 9"):
        distribute(logits, Sampling(logit_bias={9: 1.0}))


def test_draws_fall_as_often_as_the_probabilities_say() -> None:
    distribution = distribute(random_logits(3, 30), Sampling(temperature=1.5, top_p=0.9))
    draws = np.array([sample_token(distribution, uniform(11, position), position).id for position in range(20_000)])
    seen = np.bincount(draws, minlength=30) / len(draws)
    assert (seen[distribution.filtered == 0] == 0).all()
    assert np.abs(seen - distribution.filtered).max() < 4 * 0.5 / math.sqrt(len(draws))


@pytest.mark.parametrize("random", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_were_kept(random: float) -> None:
    distribution = distribute(random_logits(4), Sampling(top_k=3))
    assert distribution.remover(sample_token(distribution, random, 0).id) is None


def test_a_sampled_token_says_how_it_was_drawn() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))
    token = sample_token(distribute(logits, Sampling(top_k=2)), 0.9, 5)
    assert (token.id, token.rank, token.position, token.uniform) == (2, 2, 5, 0.9)
    assert (token.probability, token.filtered_probability) == (pytest.approx(0.3), pytest.approx(1 / 3))
    assert token.logit == logits[2]


def test_the_random_number_depends_on_seed_and_position_alone() -> None:
    assert uniform(5, 9) == uniform(5, 9)
    numbers = [uniform(seed, position) for seed in range(40) for position in range(40)]
    assert len(set(numbers)) == 1600
    assert abs(np.mean(numbers) - 0.5) < 0.03
    assert all(0 <= number < 1 for number in numbers)


def test_the_random_numbers_never_change() -> None:
    """Golden: a text written with a seed must be replayable by every later version."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1, 0), uniform(2**64 - 1, 10**6)] == [
        0.011546754286331562,
        0.5023796042735054,
        0.3035680343067586,
        0.4614255439484173,
    ]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(SettingError, match="seed"):
        check_seed(seed)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"typical_p": 0},
        {"temperature": 1e-310},
        {"repetition_penalty": 0},
        {"repetition_penalty": 1e-320},
        {"presence_penalty": 1e300},
        {"logit_bias": {1: 1e308}},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_are_reported(bad: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        distribute(np.array([0.0, bad], dtype=np.float32), Sampling())


def test_extreme_logits_neither_overflow_nor_vanish() -> None:
    distribution = distribute(
        np.array([3e38, -3e38, 3e38], dtype=np.float32), Sampling(temperature=1e-3, typical_p=0.5)
    )
    assert np.isfinite(distribution.filtered).all()
    assert distribution.filtered[1] == 0
    extreme = Sampling(temperature=1e-6, repetition_penalty=1e-3, logit_bias={1: 1e6}, frequency_penalty=-1e6)
    distribution = distribute(np.array([3e38, -3e38, 5], dtype=np.float32), extreme, [0, 1, 2], 1)
    assert distribution.filtered.sum() == pytest.approx(1)


def test_no_bias_brings_back_an_id_that_stands_for_no_token() -> None:
    distribution = distribute(np.zeros(8, dtype=np.float32), Sampling(logit_bias={7: 1e4}), n_tokens=6)
    assert distribution.filtered == pytest.approx([1 / 6] * 6 + [0, 0])
    assert distribution.remover(7) == "no_token"
    assert distribution.removed[0].mass == pytest.approx(0.25)
