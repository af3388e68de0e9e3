"""GPT-NeoX (Black et al., 2022; Pythia): partial rotary positions, parallel residual, LayerNorm, GELU, biases.

Query, key and value are stored as one projection whose rows go head by head: q, k, v of head 0, q, k, v of
head 1, ...
"""

from functools import partial
from typing import Any

import numpy as np

from nextword.model.architecture import Architecture, Biases, Gelu, LayerNorm, Rotary
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family, GGUFLayout, read_rotary, write_rotary
from nextword.parameters.layout import RowOrder, TensorMapping

GELUS = {"gelu": "none", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}


def architecture(config: Config) -> Architecture:
    """The architecture that a configuration of this family describes. Raises UnsupportedModel or CorruptFile."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    fraction = config.number("partial_rotary_factor", config.number("rotary_pct", 0.25))
    theta = config.number("rotary_emb_base", 10000.0)
    bias = config.flag("attention_bias", True)
    return Architecture(
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings"),
        width=width,
        n_layers=config.layers("num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=heads,
        head_size=width // heads,
        norm=LayerNorm(config.number("layer_norm_eps", 1e-5)),
        position=read_rotary(config, fraction, theta),
        mlp=Gelu(config.integer("intermediate_size"), config.choice("hidden_act", GELUS, "gelu")),
        residual="parallel" if config.flag("use_parallel_residual", True) else "serial",
        biases=Biases(query_key_value=bias, attention_output=bias, mlp=True),
        tied=config.flag("tie_word_embeddings", False),
    )


def config(a: Architecture) -> dict[str, Any]:
    """The configuration of an architecture: the inverse of `architecture`."""
    assert isinstance(a.mlp, Gelu)
    assert isinstance(a.position, Rotary)
    rotary = write_rotary(a.position)
    return {
        "vocab_size": a.vocab,
        "max_position_embeddings": a.context,
        "hidden_size": a.width,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "intermediate_size": a.mlp.width,
        "hidden_act": "gelu_new" if a.mlp.approximate == "tanh" else "gelu",
        "layer_norm_eps": a.norm.eps,
        "rotary_pct": a.position.fraction,
        "rotary_emb_base": rotary.pop("rope_theta"),
        **rotary,
        "use_parallel_residual": a.residual == "parallel",
        "attention_bias": a.biases.query_key_value,
        "tie_word_embeddings": a.tied,
    }


def mappings(a: Architecture) -> list[TensorMapping]:
    """The tensor layout of Hugging Face's files."""
    found = [TensorMapping("gpt_neox.embed_in.weight", ("embed.weight",))]
    attention_parts = ("weight", "bias") if a.biases.query_key_value else ("weight",)
    for layer in range(a.n_layers):
        ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
        for part in ("weight", "bias"):
            found += [
                TensorMapping(f"{theirs}.input_layernorm.{part}", (f"{ours}.attention_norm.{part}",)),
                TensorMapping(f"{theirs}.post_attention_layernorm.{part}", (f"{ours}.mlp_norm.{part}",)),
                TensorMapping(f"{theirs}.mlp.dense_h_to_4h.{part}", (f"{ours}.mlp.up.{part}",)),
                TensorMapping(f"{theirs}.mlp.dense_4h_to_h.{part}", (f"{ours}.mlp.down.{part}",)),
            ]
        for part in attention_parts:
            fused = tuple(f"{ours}.attention.{name}.{part}" for name in ("query", "key", "value"))
            found += [
                TensorMapping(
                    f"{theirs}.attention.query_key_value.{part}", fused, order=partial(_by_part, a.n_heads, a.head_size)
                ),
                TensorMapping(f"{theirs}.attention.dense.{part}", (f"{ours}.attention.output.{part}",)),
            ]
    found += [TensorMapping(f"gpt_neox.final_layer_norm.{part}", (f"norm.{part}",)) for part in ("weight", "bias")]
    return found if a.tied else [*found, TensorMapping("embed_out.weight", ("unembed.weight",))]


def _by_part(heads: int, head_size: int) -> RowOrder:
    """The rows of a projection stored head by head, in the order of all queries, all keys, all values."""
    return np.arange(3 * heads * head_size).reshape(heads, 3, head_size).swapaxes(0, 1).reshape(-1)


FAMILY = Family(
    model_type="gpt_neox",
    class_name="GPTNeoXForCausalLM",
    architecture=architecture,
    config=config,
    mappings=mappings,
    gguf=GGUFLayout(
        name="gptneox",
        keys={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "attention.head_count": "num_attention_heads",
            "feed_forward_length": "intermediate_size",
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
        },
        fused=True,
    ),
    prefix="gpt_neox.",
    leftovers=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
)
