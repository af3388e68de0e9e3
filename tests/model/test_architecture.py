"""The table of tensors and the rotary frequencies; their referees are the laws, here are rotations by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nextword.model.architecture import LinearScaling, Llama3Scaling, Rotary, rotary_frequencies, tensor_shapes
from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Transformer, apply_rope, visible
from nextword.parameters.open import open_stored
from tests import tiny


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_the_table_of_tensors_is_the_transformers_own(variant: str, tiny_folder: Callable[[str], Path]) -> None:
    architecture = open_stored(tiny_folder(variant)).architecture
    with torch.device("meta"):
        parameters = dict(Transformer(architecture).named_parameters())
    assert {name: tuple(p.shape) for name, p in parameters.items()} == tensor_shapes(architecture)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(variant))
    assert architecture.n_parameters == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize(
    ("scaling", "settings"),
    [
        (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
        (
            Llama3Scaling(32.0, 1.0, 4.0, 8192),
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_scaled_frequencies_are_transformers(
    scaling: LinearScaling | Llama3Scaling, settings: dict[str, object]
) -> None:
    """Llama 3.2's published numbers."""
    config = transformers.LlamaConfig(
        hidden_size=2048,
        num_attention_heads=32,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": 500000.0, **settings},
    )
    theirs, attention_factor = ROPE_INIT_FUNCTIONS[str(settings["rope_type"])](config, torch.device("cpu"))
    assert attention_factor == 1.0
    np.testing.assert_allclose(rotary_frequencies(Rotary(500000.0, 1.0, scaling), 64), theirs.numpy(), rtol=1e-6)


def test_rope_rotates_two_halves_and_leaves_the_rest() -> None:
    x = torch.tensor([[[[1.0, 0.0, 0.0, 2.0, 5.0]]]])
    angles = torch.tensor([[torch.pi / 2, torch.pi]])
    rotated = apply_rope(x, (angles.cos(), angles.sin()), 4)
    assert rotated.flatten().tolist() == pytest.approx([0, 0, 1, -2, 5], abs=1e-6)


def test_a_position_sees_itself_and_the_past_within_the_window() -> None:
    positions = torch.tensor([2, 3])
    assert visible(positions, 4, None).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert visible(positions, 4, 2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]


def test_the_kv_cache_is_filled_by_the_pass_and_advanced_by_the_engine(tiny_folder: Callable[[str], Path]) -> None:
    kv_cache = KVCache(open_stored(tiny_folder("qwen3")).architecture, 10)
    key = torch.randn(1, 2, 3, 8)
    keys, _ = kv_cache.append(0, key, key)
    assert keys.shape == (1, 2, 3, 8)
    assert kv_cache.length == 0
    kv_cache.advance(3)
    keys, values = kv_cache.append(0, key, 2 * key)
    assert torch.equal(keys, torch.cat([key, key], dim=2))
    assert torch.equal(values[:, :, 3:], 2 * key)
    kv_cache.truncate(1)
    assert kv_cache.append(0, key, key)[0].shape[2] == 4
