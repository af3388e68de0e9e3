"""Hook points: named places inside the equations, where a hook may read a tensor or edit it.

A hook is passed to `Transformer.forward` as an argument, never stored in the model. At every point that it
wants it is called with the point's name and tensor, and the equations go on with what it returns.

`point_names` yields the names; `docs/reference/hook-points.md` has the table of them, with shapes, meanings and
TransformerLens' names, and a test holds it against this module.

Attention opens its softmax only where the hook wants `scores` or `pattern`; otherwise the fused kernel runs.
Opened and fused attention are equal up to rounding; everywhere else a hook that edits nothing changes no bit.
Freezing a pattern or a norm's scale is an edit: a hook that returns the recorded tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from nextword.model.architecture import Architecture, SwiGLU
from nextword.model.types import Tensor


class Hook(Protocol):
    """An observer or editor of a forward pass."""

    def wants(self, name: str) -> bool:
        """Whether this hook is to be called at the point `name`."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor to go on with, of the same shape."""


def apply_hook(hook: Hook | None, name: str, tensor: Tensor) -> Tensor:
    """The tensor that the equations go on with at a point: the hook's, if there is one that wants it.

    Args:
        hook: The pass's hook, None for none.
        name: Of the point.
        tensor: What the equations computed there.
    """
    return hook(name, tensor) if hook is not None and hook.wants(name) else tensor


def point_names(architecture: Architecture) -> Iterator[str]:
    """Every hook point of a forward pass with open attention, in the order in which the pass meets them.

    >>> from nextword.model.architecture import Architecture, Gelu, LayerNorm, Learned
    >>> sizes = dict(vocab=320, context=64, width=48, n_layers=2, n_heads=6, n_kv_heads=6, head_size=8)
    >>> small = Architecture(**sizes, norm=LayerNorm(1e-5), position=Learned(), mlp=Gelu(96, "tanh"))
    >>> [name for name in point_names(small) if ".attention." in name][:6]
    ['blocks.0.attention.query', 'blocks.0.attention.key', 'blocks.0.attention.value', 'blocks.0.attention.scores',
     'blocks.0.attention.pattern', 'blocks.0.attention.z']
    """
    mlp = ("gate", "up", "activation") if isinstance(architecture.mlp, SwiGLU) else ("up", "activation")
    yield "embed"
    for layer in range(architecture.n_layers):
        block = f"blocks.{layer}"
        yield from (f"{block}.attention_norm.scale", f"{block}.attention_norm")
        for name in ("query", "key", "value", "scores", "pattern", "z"):
            yield f"{block}.attention.{name}"
        yield f"{block}.attention"
        yield from (f"{block}.mlp_norm.scale", f"{block}.mlp_norm")
        yield from (f"{block}.mlp.{name}" for name in mlp)
        yield from (f"{block}.mlp", block)
    yield from ("norm.scale", "norm", "logits")
