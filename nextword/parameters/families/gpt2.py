"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm, GELU, biases everywhere, tied embeddings.

Its projections are stored transposed ([in, out]) and query, key and value as one.
"""

from typing import Any

from nextword.model.architecture import Architecture, Biases, Gelu, LayerNorm, Learned
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family, GGUFLayout
from nextword.parameters.layout import TensorMapping

GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


def architecture(config: Config) -> Architecture:
    """The architecture that a configuration of this family describes. Raises UnsupportedModel or CorruptFile."""
    width, heads = config.integer("n_embd"), config.integer("n_head")
    config.expect("scale_attn_weights", True)
    return Architecture(
        vocab=config.integer("vocab_size"),
        context=config.integer("n_positions"),
        width=width,
        n_layers=config.layers("n_layer"),
        n_heads=heads,
        n_kv_heads=heads,
        head_size=width // heads,
        norm=LayerNorm(config.number("layer_norm_epsilon", 1e-5)),
        position=Learned(),
        mlp=Gelu(config.integer("n_inner", 4 * width), config.choice("activation_function", GELUS, "gelu_new")),
        biases=Biases(query_key_value=True, attention_output=True, mlp=True),
        tied=config.flag("tie_word_embeddings", True),
    )


def config(a: Architecture) -> dict[str, Any]:
    """The configuration of an architecture: the inverse of `architecture`."""
    assert isinstance(a.mlp, Gelu)
    return {
        "vocab_size": a.vocab,
        "n_positions": a.context,
        "n_embd": a.width,
        "n_layer": a.n_layers,
        "n_head": a.n_heads,
        "n_inner": a.mlp.width,
        "activation_function": "gelu_new" if a.mlp.approximate == "tanh" else "gelu",
        "layer_norm_epsilon": a.norm.eps,
        "tie_word_embeddings": a.tied,
    }


def mappings(a: Architecture) -> list[TensorMapping]:
    """The tensor layout of Hugging Face's files."""
    found = [
        TensorMapping("transformer.wte.weight", ("embed.weight",)),
        TensorMapping("transformer.wpe.weight", ("position.weight",)),
    ]
    for layer in range(a.n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):
            fused = tuple(f"{ours}.attention.{name}.{part}" for name in ("query", "key", "value"))
            turned = part == "weight"
            found += [
                TensorMapping(f"{theirs}.ln_1.{part}", (f"{ours}.attention_norm.{part}",)),
                TensorMapping(f"{theirs}.attn.c_attn.{part}", fused, turned),
                TensorMapping(f"{theirs}.attn.c_proj.{part}", (f"{ours}.attention.output.{part}",), turned),
                TensorMapping(f"{theirs}.ln_2.{part}", (f"{ours}.mlp_norm.{part}",)),
                TensorMapping(f"{theirs}.mlp.c_fc.{part}", (f"{ours}.mlp.up.{part}",), turned),
                TensorMapping(f"{theirs}.mlp.c_proj.{part}", (f"{ours}.mlp.down.{part}",), turned),
            ]
    found += [TensorMapping(f"transformer.ln_f.{part}", (f"norm.{part}",)) for part in ("weight", "bias")]
    return found if a.tied else [*found, TensorMapping("lm_head.weight", ("unembed.weight",))]


FAMILY = Family(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    architecture=architecture,
    config=config,
    mappings=mappings,
    gguf=GGUFLayout(
        name="gpt2",
        keys={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "feed_forward_length": "n_inner",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fused=True,
    ),
    prefix="transformer.",
    leftovers=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
)
