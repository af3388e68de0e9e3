"""Models in GGUF files, every family, laid out as llama.cpp's converter does. Referee: the transformers model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from nextword.errors import CorruptFile, UnsupportedModel
from nextword.parameters.open import open_stored
from nextword.predict.torch_engine import TorchEngine
from tests import tiny

IDS = np.random.default_rng(0).integers(0, tiny.VOCAB, 40).tolist()


def pairs_interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs: its converter interleaves the two halves of each head's rows."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def heads_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """GPT-NeoX's rows q, k, v of head 0, q, k, v of head 1, ... as all of q, all of k, all of v."""
    return weight.reshape(heads, 3, -1, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)


def convert(model: transformers.PreTrainedModel, path: Path, form: gguf.GGMLQuantizationType | None = None) -> Path:
    """Write what llama.cpp's convert_hf_to_gguf.py would."""
    config = model.config
    arch = {"gpt_neox": "gptneox"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    heads = config.num_attention_heads
    writer.add_head_count(heads)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd if arch == "gpt2" else config.intermediate_size)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    elif arch == "gptneox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(
            int(config.hidden_size // heads * config.rope_parameters["partial_rotary_factor"])
        )
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        if getattr(config, "head_dim", None):
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
        if arch == "llama":
            writer.add_rope_dimension_count(config.head_dim)
            writer.add_vocab_size(config.vocab_size)
        if config.rope_parameters["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(arch_id(arch), config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy().astype(np.float32)
        if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        if arch == "gptneox" and ".query_key_value." in name:
            array = heads_apart(array, heads)
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = pairs_interleaved(array, heads if "q_proj" in name else config.num_key_value_heads)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        array = np.ascontiguousarray(array)
        if form is not None and array.ndim == 2:
            writer.add_tensor(new, gguf.quants.quantize(array, form), raw_dtype=form)
        else:
            writer.add_tensor(new, array)
    for key, array in extra_tensors(model).items():
        writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def arch_id(arch: str) -> gguf.MODEL_ARCH:
    return next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def extra_tensors(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """Llama 3's scaling travels as a divisor for each frequency."""
    settings = getattr(model.config, "rope_parameters", None) or {}
    if settings.get("rope_type") != "llama3":
        return {}
    scaled = model.model.rotary_emb.inv_freq.numpy()
    size = model.config.head_dim
    plain = 1.0 / settings["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float32) / size)
    return {"rope_freqs.weight": (plain / scaled).astype(np.float32)}


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    made = tiny.tokenizer()
    words = sorted(made.get_vocab(), key=made.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(words) - 1))
    merges = json.loads(made.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def logits(path: Path) -> np.ndarray:
    stored = open_stored(path)
    return TorchEngine(stored.architecture, stored.tensors).open_session().feed_all(IDS)


def theirs(model: transformers.PreTrainedModel) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


PUBLISHED_LLAMA3: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
}


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("gpt2", {}),
        ("gpt2-untied", {}),
        ("llama", {}),
        ("llama-tied", {}),
        ("llama-linear-scaling", {}),
        ("llama3-scaling", PUBLISHED_LLAMA3),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gpt_neox", {}),
        ("gpt_neox", {"use_parallel_residual": False}),
    ],
)
def test_logits_are_those_of_transformers(variant: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.make(variant, **settings)
    path = convert(model, tmp_path / "model.gguf")
    assert np.abs(logits(path) - theirs(model)).max() <= 1e-4
    tokens = open_stored(path).tokenizer
    assert tokens.encode(tiny.TEXT) == tiny.tokenizer().encode(tiny.TEXT).ids


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"])
def test_packed_weights_are_read_through_every_reordering(form: str, tmp_path: Path) -> None:
    """The rows of query and key are picked while they are packed; the referee unpacks first and reorders then."""
    kind = gguf.GGMLQuantizationType[form]
    model = tiny.make("llama", hidden_size=64, head_dim=32, intermediate_size=96, num_attention_heads=4)
    path = convert(model, tmp_path / "model.gguf", kind)
    rounded = tiny.make("llama", hidden_size=64, head_dim=32, intermediate_size=96, num_attention_heads=4)
    for tensor in rounded.state_dict().values():
        if tensor.dim() == 2:
            packed = gguf.quants.quantize(tensor.numpy(), kind)
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(packed, kind).reshape(tensor.shape)))
    assert np.abs(logits(path) - theirs(rounded)).max() <= 1e-4


def metadata_with(tmp_path: Path, key: str, value: float | str) -> Path:
    path = convert(tiny.make("llama"), tmp_path / "plain.gguf")
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "changed.gguf", "llama")
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "general.architecture")) or name == key:
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), kind, sub)
    writer.add_key_value(
        key, value, gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.FLOAT32
    )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "changed.gguf"


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("llama.attention.temperature_scale", 2.0, "llama.attention.temperature_scale"),
        ("llama.rope.scaling.type", "yarn", "yarn"),
        ("llama.rope.freq_base", "ten thousand", "rope_theta"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "rms_norm_eps"),
    ],
)
def test_settings_that_would_change_the_mathematics_are_refused(
    key: str, value: float | str, error: str, tmp_path: Path
) -> None:
    with pytest.raises((UnsupportedModel, CorruptFile), match=error):
        open_stored(metadata_with(tmp_path, key, value))
