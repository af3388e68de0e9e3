"""Small models for the tests of explanations: random ones of five kinds, and one whose circuit is known."""

from __future__ import annotations

import torch

from nextword.model.architecture import (
    Architecture,
    Biases,
    Gelu,
    LayerNorm,
    Learned,
    RMSNorm,
    Rotary,
    SwiGLU,
    tensor_shapes,
)
from nextword.model.transformer import Transformer

SIZES = {"vocab": 60, "context": 24, "width": 32, "n_layers": 3, "n_heads": 4, "head_size": 8}
KINDS = {
    "layernorm, learned, biases, tied": Architecture(
        **SIZES,
        n_kv_heads=4,
        norm=LayerNorm(1e-5),
        position=Learned(),
        mlp=Gelu(48, "tanh"),
        biases=Biases(True, True, True),
        tied=True,
    ),
    "rmsnorm, grouped": Architecture(**SIZES, n_kv_heads=2, norm=RMSNorm(1e-6), position=Rotary(1e4), mlp=SwiGLU(40)),
    "biased queries, window, tied": Architecture(
        **SIZES,
        n_kv_heads=1,
        norm=RMSNorm(1e-6),
        position=Rotary(1e4),
        mlp=SwiGLU(40),
        biases=Biases(query_key_value=True),
        windows=(None, 5, 3),
        tied=True,
    ),
    "qk-norm": Architecture(
        **SIZES, n_kv_heads=2, norm=RMSNorm(1e-6), position=Rotary(1e4), mlp=SwiGLU(40), qk_norm=True, tied=True
    ),
    "parallel, partly rotated": Architecture(
        **SIZES,
        n_kv_heads=4,
        norm=LayerNorm(1e-5),
        position=Rotary(1e4, 0.5),
        mlp=Gelu(48, "none"),
        residual="parallel",
        biases=Biases(True, True, True),
    ),
}
PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32]


def random_model(architecture: Architecture, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
    """Weights large enough to tell mistakes apart, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(architecture).items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.25
        weights[name] = (drawn + 0.7 if len(shape) == 1 else drawn).to(dtype)
    return Transformer.of(architecture, weights).requires_grad_(False)


def induction_model(vocab: int = 10, context: int = 16) -> Transformer:
    """Two layers that do nothing but: find the last place where this token stood, and say what followed it.

    The residual has four parts: token, position, previous token, answer. Head 0.0 takes the token before (it
    matches positions) into the third, head 1.0 looks there for the current token and copies the token it finds into
    the fourth, the only one that the unembedding reads. Scores are so far apart that patterns are exactly one-hot.
    Heads 0.1 and 1.1 and the MLPs compute at random and write nothing.
    """
    size = max(vocab, context)
    a = Architecture(
        vocab=vocab,
        context=context,
        width=3 * vocab + context,
        n_layers=2,
        n_heads=2,
        n_kv_heads=2,
        head_size=size,
        norm=RMSNorm(1e-6),
        position=Learned(),
        mlp=Gelu(8, "tanh"),
    )
    generator = torch.Generator().manual_seed(0)
    w = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in tensor_shapes(a).items()}
    for name, tensor in w.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1)
        elif not name.endswith(("mlp.up.weight", "query.weight", "key.weight", "value.weight")):
            tensor.zero_()
    token, place, before, answer = 0, vocab, vocab + context, 2 * vocab + context
    words, places = torch.arange(vocab), torch.arange(context)
    w["embed.weight"][words, token + words] = 1
    w["position.weight"][places, place + places] = 1
    w["unembed.weight"][words, answer + words] = 1

    def head_0(layer: int, name: str) -> torch.Tensor:
        return w[f"blocks.{layer}.attention.{name}.weight"][:size].zero_()

    head_0(0, "query")[places, place + places] = 200
    head_0(0, "key")[places[1:], place + places[:-1]] = 200  # the key of position p answers the query of p + 1
    head_0(0, "value")[words, token + words] = 1
    w["blocks.0.attention.output.weight"][before + words, words] = 1
    head_0(1, "query")[words, token + words] = 200
    head_0(1, "key")[words, before + words] = 200
    head_0(1, "value")[words, token + words] = 1
    w["blocks.1.attention.output.weight"][answer + words, words] = 1
    return Transformer.of(a, w).requires_grad_(False)
