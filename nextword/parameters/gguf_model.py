"""Translation between a GGUF file's settings and tensors and those of a model family, in both directions.

The settings become the Hugging Face configuration that they were converted from, and back: the same table of keys
serves both directions, and settings are read again before they are written. llama.cpp's names and layouts of tensors
are given as tensor mappings. (llama.cpp, gguf-py/gguf/constants.py and convert_hf_to_gguf.py.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.errors import CorruptFile, UnsupportedModel
from nextword.model.architecture import (
    Architecture,
    LinearScaling,
    Llama3Scaling,
    Rotary,
    rotary_frequencies,
    tensor_shapes,
)
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family
from nextword.parameters.layout import RowOrder, TensorMapping
from nextword.parameters.stored import StoredTensor

# llama.cpp's names of our modules, within a block and outside.
BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.output": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
OUTER_NAMES = {"embed": "token_embd", "position": "position_embd", "norm": "output_norm", "unembed": "output"}
FREQUENCIES = "rope_freqs.weight"  # tensor: by which the rotary frequencies are divided (Llama 3)


def config_from_gguf(
    family: Family, metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, Any]:
    """Hugging Face's settings of a model. Settings that are not understood keep their GGUF name.

    Args:
        family: The model's family.
        metadata: The file's metadata.
        tensors: The file's tensors, of which shapes and presence are read.

    Raises:
        CorruptFile: The settings or tensors contradict each other.
        UnsupportedModel: A setting changes the mathematics in a way that is not supported.
    """
    prefix = f"{family.gguf.name}."
    settings = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    config = {name: settings.pop(key) for key, name in family.gguf.keys.items() if key in settings}
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CorruptFile("The GGUF file has no token embedding (token_embd.weight).")
    config["vocab_size"] = embedding.shape[0]
    settings.pop("vocab_size", None)  # says the same, where it is right
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config.update(_rotary(config, settings, tensors))
    value_length = settings.pop("attention.value_length", None)
    if value_length is not None and value_length != config.get("head_dim"):
        raise UnsupportedModel("The GGUF file's keys and values have different sizes, which is not supported.")
    return {**config, **{prefix + key: value for key, value in settings.items()}}


def _rotary(config: Mapping[str, Any], settings: dict[str, Any], tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    rope: dict[str, Any] = {}
    if (theta := settings.pop("rope.freq_base", None)) is not None:
        rope["rope_theta"] = theta
    if (size := settings.pop("rope.dimension_count", None)) is not None:
        heads = Config(config, "The GGUF file")
        head_size = heads.integer("head_dim", heads.integer("hidden_size") // heads.integer("num_attention_heads"))
        if not isinstance(size, int) or not 0 < size <= head_size:
            raise CorruptFile(f"The GGUF file rotates {size!r} of {head_size} dimensions, which cannot be.")
        if size < head_size:
            rope["partial_rotary_factor"] = size / head_size
    scaling = settings.pop("rope.scaling.type", "none")
    settings.pop("rope.scaling.finetuned", None)
    if FREQUENCIES in tensors:
        return {"rope_parameters": {**rope, **_llama3_scaling(rope, tensors[FREQUENCIES])}}
    if scaling == "linear":
        return {"rope_parameters": {**rope, "rope_type": "linear", "factor": settings.pop("rope.scaling.factor", None)}}
    if scaling != "none":
        raise UnsupportedModel(f"The GGUF file scales its rotary positions by {scaling!r}, which is not supported.")
    return {"rope_parameters": rope} if rope else {}


def _llama3_scaling(rope: Mapping[str, Any], divisors: StoredTensor) -> dict[str, Any]:
    """The Llama 3 scaling whose divisors the file lists; only the published scaling is recognised."""
    stated = divisors.dequantize().ravel()
    if stated.size == 0 or not np.isfinite(stated).all() or stated.min() <= 0:
        raise CorruptFile(f"The GGUF file's {FREQUENCIES} is not a list of divisors.")
    scaling = Llama3Scaling(float(stated.max()), 1.0, 4.0, 8192)
    if not np.allclose(stated, _divisors(rope, scaling, stated.size), rtol=1e-4):
        raise UnsupportedModel("The GGUF file scales its rotary positions in a way that nextword does not know.")
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _divisors(rope: Mapping[str, Any], scaling: Llama3Scaling, pairs: int) -> npt.NDArray[np.float32]:
    theta = Config(rope, "The GGUF file").number("rope_theta", 10000.0)
    plain, scaled = (rotary_frequencies(Rotary(theta, 1.0, s), 2 * pairs) for s in (None, scaling))
    return plain / scaled


def gguf_from_architecture(family: Family, a: Architecture) -> tuple[dict[str, Any], npt.NDArray[np.float32] | None]:
    """The settings of a GGUF file, and the divisors of the rotary frequencies (FREQUENCIES), float32 [pairs], or None.

    The inverse of `config_from_gguf`. Raises UnsupportedModel if the settings cannot express the architecture.
    """
    config = family.config(a)
    settings = {key: config[name] for key, name in family.gguf.keys.items()}
    if "attention.key_length" in settings:
        settings["attention.value_length"] = a.head_size
    divisors = None
    if isinstance(a.position, Rotary):
        settings |= {"rope.freq_base": a.position.theta, "rope.dimension_count": a.rotary_size}
        match a.position.scaling:
            case LinearScaling(factor):
                settings |= {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
            case Llama3Scaling() as scaling:
                divisors = _divisors({"rope_theta": a.position.theta}, scaling, a.rotary_size // 2)
    metadata = {f"{family.gguf.name}.{key}": value for key, value in settings.items()}
    _check_readable(family, a, metadata, divisors)
    return {"general.architecture": family.gguf.name, **metadata}, divisors


def _check_readable(
    family: Family, a: Architecture, metadata: Mapping[str, Any], divisors: npt.NDArray[np.float32] | None
) -> None:
    """Raise UnsupportedModel unless these settings are read as this architecture."""
    outline = {"token_embd.weight": StoredTensor.of(np.zeros((a.vocab, 1), np.float32))}  # only what the reader needs
    if not a.tied:
        outline["output.weight"] = outline["token_embd.weight"]
    if divisors is not None:
        outline[FREQUENCIES] = StoredTensor.of(divisors)
    try:
        read = family.architecture(Config(config_from_gguf(family, metadata, outline), "The GGUF file"))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"This model cannot be written as GGUF; export it to hf instead. ({error})") from error
    if isinstance(a.position, Rotary):  # the file has the number of rotated dimensions, not the fraction
        a = replace(a, position=replace(a.position, fraction=a.rotary_size / a.head_size))
    lost = [field.name for field in fields(a) if getattr(read, field.name) != getattr(a, field.name)]
    if lost:
        raise UnsupportedModel(
            f"A GGUF file of the family {family.gguf.name} has no words for this model's {', '.join(lost)}; "
            "export it to hf instead."
        )


def gguf_mappings(family: Family, a: Architecture) -> list[TensorMapping]:
    """The tensor layout of this architecture in a GGUF file."""
    found = []
    for name in tensor_shapes(a):
        *path, part = name.split(".")
        if path[0] != "blocks":
            found.append(TensorMapping(f"{OUTER_NAMES[path[0]]}.{part}", (name,)))
            continue
        block, layer, module = ".".join(path[:2]), path[1], ".".join(path[2:])
        if family.gguf.fused and module in ("attention.query", "attention.key", "attention.value"):
            if module == "attention.query":
                fused = tuple(f"{block}.attention.{each}.{part}" for each in ("query", "key", "value"))
                found.append(TensorMapping(f"blk.{layer}.attn_qkv.{part}", fused))
            continue
        order = None
        if family.gguf.interleaved and module in ("attention.query", "attention.key"):
            order = partial(_interleaved, a.n_heads if module == "attention.query" else a.n_kv_heads, a.head_size)
        found.append(TensorMapping(f"blk.{layer}.{BLOCK_NAMES[module]}.{part}", (name,), order=order))
    return found


def _interleaved(heads: int, head_size: int) -> RowOrder:
    """The rows of a projection for neighbouring-pair rotation, in the order of two halves."""
    return np.arange(heads * head_size).reshape(heads, head_size // 2, 2).swapaxes(1, 2).reshape(-1)
