"""A recipe survives JSON, refuses what it does not know, and its schedules begin and end where they should."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextword.errors import InputError
from nextword.model.architecture import (
    Architecture,
    Biases,
    Gelu,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    RMSNorm,
    Rotary,
    tensor_shapes,
)
from nextword.optimize.initialize import initial_weights
from nextword.optimize.recipe import Correction, Recipe, from_json, standard

RECIPE = Recipe(standard(128, 2, vocab=512, context=64), steps=1000, batch_size=8)
OLD_GPT = Architecture(
    vocab=9,
    context=8,
    width=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=2,
    head_size=4,
    norm=LayerNorm(1e-5),
    position=Learned(),
    mlp=Gelu(32, "tanh"),
    biases=Biases(True, True, True),
    windows=(None, 4),
)


@pytest.mark.parametrize(
    "architecture",
    [
        RECIPE.architecture,
        OLD_GPT,
        replace(OLD_GPT, position=Rotary(1e4, 0.5, LinearScaling(2.0))),
        replace(OLD_GPT, position=Rotary(5e5, 1.0, Llama3Scaling(8.0, 1.0, 4.0, 8192)), residual="parallel"),
    ],
)
def test_json_gives_back_the_same_recipe(architecture: Architecture) -> None:
    recipe = replace(RECIPE, architecture=architecture, seed=7, dtype="bfloat16", muon_lr=1 / 3)
    assert from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("batch",), 3, "key 'batch' of the recipe is unknown"),
        (("architecture", "sinks"), True, "key 'architecture.sinks' of the recipe is unknown"),
        (("steps",), None, "key 'steps' of the recipe is missing"),
        (("steps",), "10", "'steps' cannot be '10'"),
        (("compiled",), 1, "'compiled' cannot be 1"),
        (("dtype",), "int4", "'dtype' cannot be 'int4'"),
        (("architecture", "norm"), {"type": "BatchNorm"}, "'architecture.norm' cannot be"),
        (("architecture", "norm"), [], "'architecture.norm' cannot be"),
        (("architecture", "norm", "type"), "Rotary", "'architecture.norm' cannot be"),
        (("architecture",), {"type": "Recipe"}, "'architecture' cannot be"),
    ],
)
def test_json_that_nextword_did_not_write_is_refused_by_name(path: tuple[str, ...], value: Any, message: str) -> None:
    stored = copy.deepcopy(RECIPE.to_json())
    place = stored
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        from_json(stored)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_other_json_is_refused_too(stored: Any) -> None:
    with pytest.raises(InputError):
        from_json(stored)


def test_learning_rates_warm_up_stay_and_end_in_zero() -> None:
    levels = [replace(RECIPE, warmup=0.1, decay=0.4).lr_scale(step) for step in range(1001)]
    assert levels[0] == pytest.approx(0.01)
    assert levels[:100] == sorted(levels[:100])
    assert set(levels[100:600]) == {1.0}
    assert levels[800] == pytest.approx(0.5)
    assert levels[999] == pytest.approx(1 / 400)
    assert levels[1000] == 0


def test_rates_follow_the_level_and_momentum_warms_up() -> None:
    recipe = replace(RECIPE, decay=0.5, momentum_start=0.8, momentum=0.9, momentum_warmup=10)
    assert [recipe.schedule(step).momentum for step in (0, 5, 10, 900)] == pytest.approx([0.8, 0.85, 0.9, 0.9])
    rates = recipe.schedule(750)
    assert rates.muon_lr == pytest.approx(recipe.muon_lr / 2)
    assert rates.adam_lr == pytest.approx(recipe.adam_lr / 2)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 2000)), max_size=3),
    st.floats(0, 1),
)
def test_corrections_never_jump_and_end_in_zero(decided: list[tuple[int, int]], decay: float) -> None:
    recipe = replace(RECIPE, warmup=0.0, decay=decay)
    corrections: tuple[Correction, ...] = ()
    steps = recipe.steps
    for step, more in sorted(decided):
        if step >= steps:
            continue
        before = recipe.lr_scale(step, corrections)
        steps = step + more
        corrections += (Correction(step, steps),)
        assert recipe.lr_scale(step, corrections) == pytest.approx(before)
        assert recipe.lr_scale(max(step - 1, 0), corrections) >= before
    levels = [recipe.lr_scale(step, corrections) for step in range(steps + 1)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0 < levels[-2]


def test_the_standard_shape_is_one_that_other_tools_open() -> None:
    from nextword.parameters.families.qwen3 import FAMILY

    architecture = standard(192, 4, vocab=1024, context=128, n_kv_heads=1)
    assert (architecture.n_heads, architecture.n_kv_heads, architecture.head_size) == (3, 1, 64)
    assert FAMILY.config(architecture)["hidden_size"] == 192
    with pytest.raises(InputError, match="multiple of 32"):
        standard(100, 2, vocab=10, context=8)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    architecture = RECIPE.architecture
    torch.manual_seed(1)
    first = initial_weights(architecture, 3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = initial_weights(architecture, 3), initial_weights(architecture, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: tuple(w.shape) for name, w in first.items()} == tensor_shapes(architecture)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_a_model_starts_as_its_embedding_alone() -> None:
    weights = initial_weights(RECIPE.architecture, 0)
    for layer in range(2):
        assert not weights[f"blocks.{layer}.attention.output.weight"].any()
        assert not weights[f"blocks.{layer}.mlp.down.weight"].any()
    assert isinstance(RECIPE.architecture.norm, RMSNorm)
    assert (weights["norm.weight"] == 1).all()
