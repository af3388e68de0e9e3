"""What is refused when a model is opened, and in which words; what is understood is in tests/test_laws.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nextword.errors import CorruptFile, InputError, ModelError, ModelNotFound, NextwordError, UnsupportedModel
from nextword.model.architecture import Rotary
from nextword.parameters.export import export_hf
from nextword.parameters.layout import TensorMapping, load, store
from nextword.parameters.open import open_stored
from nextword.parameters.stored import StoredTensor

Folder = Callable[[str], Path]


@pytest.fixture
def changed(tiny_folder: Folder, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model whose config.json is changed by keywords; None removes a key."""

    def change(variant: str = "llama", **settings: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_folder(variant), folder)
        config = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return change


@pytest.mark.parametrize(
    ("variant", "settings", "words"),
    [
        ("llama", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
        ("llama", {"model_type": "mamba"}, "mamba"),
        ("llama", {"model_type": None}, "None"),
        ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "yarn"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mscale": 2.0}}, "mscale"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "both given"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "a part of a head",
        ),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("qwen3", {"num_experts": 8}, "num_experts"),
        ("qwen2", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types"),
    ],
)
def test_what_would_change_the_mathematics_is_refused_by_name(
    variant: str, settings: dict[str, Any], words: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        open_stored(changed(variant, **settings))


def test_lying_sizes_are_found_before_anything_is_allocated(changed: Callable[..., Path]) -> None:
    with pytest.raises(CorruptFile, match="has shape"):
        open_stored(changed("gpt_neox", hidden_size=2**31, num_attention_heads=2))


def test_sliding_windows_need_their_first_layer(changed: Callable[..., Path]) -> None:
    with pytest.raises(CorruptFile, match="max_window_layers is missing"):
        open_stored(changed("qwen2-windows", layer_types=None, max_window_layers=None))


def test_keys_of_published_models_are_known(changed: Callable[..., Path]) -> None:
    open_stored(changed("gpt2", n_special=0, predict_special_tokens=True, output_past=True, n_ctx=64))


def test_a_pythia_that_transformers_4_saved_again_opens(changed: Callable[..., Path]) -> None:
    settings = {"rope_parameters": None, "rope_theta": 10000, "partial_rotary_factor": 0.25, "rotary_pct": 0.25}
    position = open_stored(changed("gpt_neox", **settings)).architecture.position
    assert position == Rotary(10000.0, 0.25)


def test_what_is_switched_off_is_not_refused(changed: Callable[..., Path]) -> None:
    open_stored(changed(attn_logit_softcapping=None, some_new_trick=False, other=[], _name_or_path="x"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": -5}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"hidden_size": 56}, "has shape"),
        ({"vocab_size": 321}, "has shape"),
        ({"num_hidden_layers": 4}, "layers.3.* is missing"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "not valid JSON"),
        ({"head_dim": 7}, "7 of 7 dimensions"),
        ({"num_key_value_heads": 4}, "6 heads cannot share 4"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"num_attention_heads": 2**30, "num_key_value_heads": 2**30, "head_dim": 2**20}, "has shape"),
    ],
)
def test_settings_that_cannot_be_are_reported(
    settings: dict[str, Any], words: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(CorruptFile, match=words):
        open_stored(changed("llama", **settings))


def test_fewer_layers_than_the_file_holds_is_refused(changed: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModel, match="layers.2"):
        open_stored(changed("llama", num_hidden_layers=2))


def test_an_embedding_smaller_than_the_tokenizer_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed("llama-tied", vocab_size=100)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:100].copy()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CorruptFile, match="the embedding only 100"):
        open_stored(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_reported(content: bytes, changed: Callable[..., Path]) -> None:
    folder = changed()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CorruptFile, match="config.json"):
        open_stored(folder)


def test_a_folder_without_configuration_or_weights(changed: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="config.json"):
        open_stored(tmp_path / "empty")
    folder = changed()
    (folder / "model.safetensors").unlink()
    with pytest.raises(NextwordError, match="safetensors"):
        open_stored(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_with_the_reason_and_the_remedy(
    name: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    folder = changed()
    (folder / "model.safetensors").rename(folder / name)
    for model in (folder, folder / name):
        with pytest.raises(UnsupportedModel, match="safe_serialization"):
            open_stored(model)


def test_unknown_names_say_what_to_give_or_to_pull(tmp_path: Path) -> None:
    for nothing in ("no-such-model", "", "~no-such-user/model"):
        with pytest.raises(ModelNotFound, match="give a folder"):
            open_stored(nothing)
    with pytest.raises(ModelNotFound, match="nextword pull owner/model"):
        open_stored("owner/model")
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ModelError):
        open_stored(tmp_path / "notes.txt")


def test_sharded_weights_are_the_single_files(tiny_folder: Folder, tmp_path: Path) -> None:
    from tests import tiny

    folder = tiny.save(tiny.make("qwen3"), tmp_path / "sharded", max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    whole, parts = open_stored(tiny_folder("qwen3")), open_stored(folder)
    for name, tensor in whole.tensors.items():
        assert np.array_equal(parts.tensors[name].dequantize(), tensor.dequantize())
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()
    with pytest.raises(NextwordError, match="model-0"):
        open_stored(folder)


def test_export_does_not_write_over_anything(tiny_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        export_hf(open_stored(tiny_folder("llama")), tmp_path)


def test_the_hash_follows_the_weights(changed: Callable[..., Path], tiny_folder: Folder) -> None:
    folder = changed()
    assert open_stored(folder).hash == open_stored(tiny_folder("llama")).hash
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, folder / "model.safetensors")
    assert open_stored(folder).hash != open_stored(tiny_folder("llama")).hash


def test_mappings_are_inverse_in_both_directions(tiny_folder: Folder) -> None:
    for variant in ("gpt2", "gpt_neox", "qwen3"):
        stored = open_stored(tiny_folder(variant))
        mappings: list[TensorMapping] = stored.family.mappings(stored.architecture)
        ours = {name: tensor.dequantize() for name, tensor in stored.tensors.items()}
        theirs = {name: StoredTensor.of(array) for name, array in store(mappings, ours).items()}
        again = load(mappings, theirs, stored.architecture, variant)
        assert all(np.array_equal(again[name].dequantize(), array) for name, array in ours.items())
