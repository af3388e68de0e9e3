"""The shape that a text and a time get, and what is counted and measured for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextword.model.transformer import Transformer
from nextword.optimize.preflight import (
    FEWEST_LAYERS,
    MOST_LAYERS,
    batch_size_for,
    measure_pace,
    measure_peak,
    n_layers_for,
    operations_per_step,
    shape,
)
from nextword.optimize.recipe import Recipe
from tests.optimize.texts import random_weights, text_of, tiny_architecture


def test_more_arithmetic_or_more_text_never_makes_a_shallower_model() -> None:
    depths = [n_layers_for(10.0**power, 1024, 10**9) for power in range(9, 20)]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (FEWEST_LAYERS, MOST_LAYERS)
    assert n_layers_for(1e19, 1024, 1000) == FEWEST_LAYERS


def test_a_gpu_reads_many_rows_and_a_short_text_still_in_many_steps() -> None:
    assert batch_size_for("cpu", 512, 32, 10**8) == 32
    assert batch_size_for("cuda", 512, 32, 10**8) == 256
    assert batch_size_for("cuda", 64, 16, 320_000) == 100
    assert batch_size_for("cuda", 64, 16, 1_000) == 16


def test_a_context_is_no_longer_than_the_text() -> None:
    assert shape(4, 300, 10**6)[0].context == 64
    assert shape(4, 300, 40)[0].context == 32
    assert shape(4, 300, 3)[0].context == 8


@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_those_that_torch_counts_in_the_matrices_of_a_step(tied: bool) -> None:
    """Over one position, so that attention has nothing to multiply; the weights of norms are counted, but few."""
    a = replace(tiny_architecture(tied=tied), context=1)
    recipe = Recipe(a, steps=1, batch_size=3)
    model = Transformer.of(a, random_weights(a))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros((3, 1), dtype=torch.int64)).sum().backward()
    assert operations_per_step(recipe) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_paces_and_peaks_are_measured() -> None:
    text = text_of([[1 + i % 11 for i in range(50)]] * 3, 12)
    recipe = Recipe(tiny_architecture(), steps=5, batch_size=2)
    pace = measure_pace(recipe, text, "cpu", 0.1)
    peak = measure_peak("float32", torch.device("cpu"))
    assert 0 < pace < 5
    assert 1e9 < peak < 1e15
    assert operations_per_step(recipe) / pace < peak
