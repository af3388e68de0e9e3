"""A start from pairs is the text's table of pairs, as well as embedding and unembedding can hold it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from nextword.errors import InputError
from nextword.model.architecture import tensor_shapes
from nextword.model.transformer import Transformer
from nextword.optimize.bigrams import bigram_loss, bigram_probabilities, bigram_weights
from nextword.optimize.forecast import ngram_probabilities
from nextword.optimize.initialize import initial_weights
from nextword.optimize.recipe import Recipe
from nextword.optimize.trainer import Trainer
from tests.optimize.texts import text_of, tiny_architecture

ARCHITECTURE = tiny_architecture(vocab=12, context=8, tied=False)
TEXT = text_of([[1 + (i * j) % 11 for i in range(20 + j)] for j in range(1, 6)], 12)
RING = text_of([[1 + i % 11 for i in range(100)], [1 + (3 * i) % 11 for i in range(40)]], 12)  # 3 to 4, seldom to 6
EPS = 1e-6


def test_probabilities_sum_to_one_and_prefer_what_was_seen() -> None:
    odds, often = bigram_probabilities(TEXT)
    assert odds.sum(1) == pytest.approx(np.ones(12), abs=1e-5)
    assert odds.min() > 0
    assert often.sum() == len(TEXT.tokens) - 1
    pairs = np.zeros((12, 12), int)
    np.add.at(pairs, (TEXT.tokens[:-1], TEXT.tokens[1:]), 1)
    assert (odds[pairs > 1].min() > odds[pairs == 0].max()).all()


def test_probabilities_are_those_of_the_forecast() -> None:
    odds, _ = bigram_probabilities(TEXT)
    tokens = np.asarray(TEXT.tokens, np.int64)
    assert odds[tokens[:-1], tokens[1:]] == pytest.approx(ngram_probabilities(tokens, tokens, 12, 2), rel=1e-5)


def test_a_token_that_nothing_follows_gets_the_odds_of_all() -> None:
    odds, often = bigram_probabilities(text_of([[1, 2, 1, 2, 3]], 5))
    assert often[4] == 0
    assert odds[4].sum() == pytest.approx(1)


def test_what_does_not_count_in_the_loss_is_no_pair() -> None:
    counts = [0] * 4 + [1] * 2
    _, often = bigram_probabilities(text_of([[1, 2, 3, 4, 5]], 6, mask=counts))
    assert often.tolist() == [0, 0, 0, 1, 1, 0]


def test_the_model_predicts_pairs_before_its_first_step() -> None:
    weights = bigram_weights(RING, ARCHITECTURE, seed=1)
    assert {name: tuple(w.shape) for name, w in weights.items()} == tensor_shapes(ARCHITECTURE)
    odds, often = bigram_probabilities(RING)
    table = torch.from_numpy(odds * (often / often.sum())[:, None])
    before = initial_weights(ARCHITECTURE, seed=1)
    losses = [bigram_loss(w["embed.weight"], w["unembed.weight"], table, EPS).item() for w in (before, weights)]
    best = -(table * torch.from_numpy(odds).log()).sum().item()
    assert best <= losses[1] < best + 0.1 < losses[0] - 0.5
    with torch.no_grad():
        predicted = Transformer.of(ARCHITECTURE, weights)(torch.arange(12)[:, None])[:, 0].softmax(-1)
    seen = often > 0
    assert (predicted.numpy()[seen] - odds[seen]).max() < 0.15


def test_same_text_and_seed_same_bits() -> None:
    first, again, other = (bigram_weights(TEXT, ARCHITECTURE, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])
    blocks = [name for name in first if name.startswith("blocks.")]
    assert blocks
    assert all(torch.equal(first[name], initial_weights(ARCHITECTURE, 3)[name]) for name in blocks)


def test_a_recipe_that_says_so_starts_there_and_goes_on_from_its_state() -> None:
    recipe = Recipe(ARCHITECTURE, steps=4, batch_size=2, init="bigrams")
    whole = Trainer(recipe, TEXT)
    start = bigram_weights(TEXT, ARCHITECTURE, recipe.seed)
    assert all(torch.equal(weight, start[name]) for name, weight in whole.state().weights.items())
    list(whole)
    cut = Trainer(recipe, TEXT)
    list(islice(cut, 2))
    resumed = Trainer(recipe, TEXT, state=cut.state())
    list(resumed)
    assert all(torch.equal(w, resumed.state().weights[name]) for name, w in whole.state().weights.items())


def test_one_matrix_for_both_is_refused() -> None:
    with pytest.raises(InputError, match="cannot start from bigrams"):
        bigram_weights(TEXT, tiny_architecture(vocab=12), seed=0)
