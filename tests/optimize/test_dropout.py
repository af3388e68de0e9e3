"""Dropout belongs to the step, not to the process: what is left out depends on (seed, step) alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from nextword.model.transformer import Transformer
from nextword.optimize.dropout import Dropout, dropout_for, seeded
from nextword.optimize.recipe import Recipe
from nextword.optimize.trainer import Trainer
from tests.optimize.texts import random_weights, text_of, tiny_architecture

ARCHITECTURE = tiny_architecture(vocab=12, context=8)
TEXT = text_of([[1 + (i * j) % 11 for i in range(20 + j)] for j in range(1, 6)], 12)
RECIPE = Recipe(ARCHITECTURE, steps=8, batch_size=4, muon_lr=0.02, adam_lr=0.01, dropout=0.3)
CPU = torch.device("cpu")


def test_more_readings_drop_more_and_a_fresh_text_none() -> None:
    shares = [dropout_for(readings) for readings in (0.1, 1, 2, 4, 8, 16, 1000, 1e9)]
    assert shares == sorted(shares)
    assert shares[:3] == [0, 0, 0]
    assert shares[3] > 0
    assert shares[-1] < 0.5


def test_it_leaves_out_its_share_and_keeps_the_mean() -> None:
    with seeded(0, 0, CPU):
        dropped = Dropout(0.25)("embed", torch.ones(100_000))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)


def test_only_what_is_written_into_the_residual_is_left_out() -> None:
    hook = Dropout(0.5)
    assert hook.wants("embed")
    assert hook.wants("blocks.0.attention")
    assert hook.wants("blocks.3.mlp")
    assert not any(hook.wants(name) for name in ("blocks.0", "norm", "logits", "blocks.0.attention.pattern"))
    model = Transformer.of(ARCHITECTURE, random_weights(ARCHITECTURE))
    ids = torch.arange(8)[None]
    with seeded(0, 0, CPU), torch.no_grad():
        assert not torch.equal(model(ids, hook=hook), model(ids))


def test_chance_is_that_of_the_step_and_leaves_the_callers_alone() -> None:
    before = torch.random.get_rng_state()
    drawn = []
    for seed, step in ((0, 1), (0, 1), (0, 2), (1, 1)):
        with seeded(seed, step, CPU):
            drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] != drawn[3]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_resumed_run_leaves_out_the_same() -> None:
    whole = Trainer(RECIPE, TEXT)
    list(whole)
    first = Trainer(RECIPE, TEXT)
    list(islice(first, 3))
    torch.rand(5)  # the process's own random numbers have moved on
    second = Trainer(RECIPE, TEXT, state=first.state())
    list(second)
    expected, found = whole.state().weights, second.state().weights
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    plain = Trainer(replace(RECIPE, dropout=0.0), TEXT)
    list(plain)
    assert any(not torch.equal(expected[name], weight) for name, weight in plain.state().weights.items())
