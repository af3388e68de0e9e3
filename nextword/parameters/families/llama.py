"""Llama (Touvron et al., 2023; SmolLM2, Llama 3): RMSNorm, rotary positions, SwiGLU, grouped-query attention.

The shared shape of today's small models: Qwen 2 and Qwen 3 differ from Llama in a few switches, so their files
call `decoder` and `decoder_mappings` here.
"""

from typing import Any

from nextword.errors import UnsupportedModel
from nextword.model.architecture import Architecture, Biases, RMSNorm, Rotary, SwiGLU
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family, GGUFLayout, read_rotary, write_rotary
from nextword.parameters.layout import TensorMapping

GGUF_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def decoder(
    config: Config,
    biases: Biases,
    *,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] = (),
) -> Architecture:
    """The architecture that the settings common to Llama and Qwen describe.

    Args:
        config: The configuration, from which the common keys are taken.
        biases: The projections that have a bias.
        qk_norm: Whether each head's query and key are normed.
        windows: The attention window of each layer in tokens, None for full attention; empty if no layer has one.

    Raises:
        UnsupportedModel: A setting changes the mathematics in a way that is not supported.
        CorruptFile: A value is missing or out of its range.
    """
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    config.choice("hidden_act", {"silu": None}, "silu")
    position = read_rotary(config)
    if position.fraction != 1:
        raise UnsupportedModel(f"{config.source}: this family does not rotate a part of a head's dimensions.")
    return Architecture(
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings"),
        width=width,
        n_layers=config.layers("num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=config.integer("num_key_value_heads", heads),
        head_size=config.integer("head_dim", width // heads),
        norm=RMSNorm(config.number("rms_norm_eps", 1e-6)),
        position=position,
        mlp=SwiGLU(config.integer("intermediate_size")),
        qk_norm=qk_norm,
        biases=biases,
        tied=config.flag("tie_word_embeddings", False),
        windows=windows,
    )


def decoder_config(a: Architecture) -> dict[str, Any]:
    """The settings that `decoder` reads."""
    assert isinstance(a.mlp, SwiGLU)
    assert isinstance(a.position, Rotary)
    return {
        "vocab_size": a.vocab,
        "max_position_embeddings": a.context,
        "hidden_size": a.width,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_size,
        "intermediate_size": a.mlp.width,
        "hidden_act": "silu",
        "rms_norm_eps": a.norm.eps,
        "tie_word_embeddings": a.tied,
        **write_rotary(a.position),
    }


def decoder_mappings(a: Architecture) -> list[TensorMapping]:
    """The tensor layout common to Llama and Qwen: each tensor of theirs is one of ours."""
    found = [
        TensorMapping("model.embed_tokens.weight", ("embed.weight",)),
        TensorMapping("model.norm.weight", ("norm.weight",)),
    ]

    def same(theirs: str, ours: str, bias: bool = False) -> None:
        found.extend(TensorMapping(f"{theirs}.{part}", (f"{ours}.{part}",)) for part in ("weight", "bias")[: 1 + bias])

    for layer in range(a.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        same(f"{theirs}.input_layernorm", f"{ours}.attention_norm")
        for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
            same(f"{theirs}.self_attn.{short}_proj", f"{ours}.attention.{name}", a.biases.query_key_value)
        if a.qk_norm:
            same(f"{theirs}.self_attn.q_norm", f"{ours}.attention.query_norm")
            same(f"{theirs}.self_attn.k_norm", f"{ours}.attention.key_norm")
        same(f"{theirs}.self_attn.o_proj", f"{ours}.attention.output", a.biases.attention_output)
        same(f"{theirs}.post_attention_layernorm", f"{ours}.mlp_norm")
        for name in ("gate", "up", "down"):
            same(f"{theirs}.mlp.{name}_proj", f"{ours}.mlp.{name}", a.biases.mlp)
    return found if a.tied else [*found, TensorMapping("lm_head.weight", ("unembed.weight",))]


def architecture(config: Config) -> Architecture:
    """The architecture that a configuration of this family describes. Raises UnsupportedModel or CorruptFile."""
    attention = config.flag("attention_bias", False)
    config.expect("rope_interleaved", False)
    return decoder(config, Biases(attention, attention, config.flag("mlp_bias", False)))


def config(a: Architecture) -> dict[str, Any]:
    """The configuration of an architecture: the inverse of `architecture`."""
    return {**decoder_config(a), "attention_bias": a.biases.query_key_value, "mlp_bias": a.biases.mlp}


FAMILY = Family(
    model_type="llama",
    class_name="LlamaForCausalLM",
    architecture=architecture,
    config=config,
    mappings=decoder_mappings,
    gguf=GGUFLayout(name="llama", keys=GGUF_KEYS, interleaved=True),
    prefix="model.",
    leftovers=r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
