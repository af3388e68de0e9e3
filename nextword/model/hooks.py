"""Named points inside the equations, where a hook may look or edit.

A hook is passed to `Transformer.forward` as an argument, never stored in the model. At every point that it
wants it is called with the point's name and tensor, and the equations go on with what it returns:

    point                              shape                            what it is
    embed                              [batch, time, width]             token embedding (+ learned position)
    blocks.L.attention_norm.scale      [batch, time, 1]                 1 / sigma of the norm before attention
    blocks.L.attention_norm            [batch, time, width]             what attention reads
    blocks.L.attention.query           [batch, heads, time, head]       before rotation, after its norm
    blocks.L.attention.key             [batch, kv heads, time, head]    before rotation, after its norm
    blocks.L.attention.value           [batch, kv heads, time, head]
    blocks.L.attention.scores          [batch, heads, time, positions]  q.k / sqrt(head), -inf where not visible
    blocks.L.attention.pattern         [batch, heads, time, positions]  softmax of the scores
    blocks.L.attention.z           [batch, heads, time, head]       values mixed by the pattern, per head
    blocks.L.attention                 [batch, time, width]             what attention adds to the residual
    blocks.L.mlp_norm.scale            [batch, time, 1]
    blocks.L.mlp_norm                  [batch, time, width]             what the MLP reads
    blocks.L.mlp.gate                  [batch, time, mlp width]         SwiGLU only: before silu
    blocks.L.mlp.up                    [batch, time, mlp width]
    blocks.L.mlp.activation            [batch, time, mlp width]         neurons, as `down` reads them
    blocks.L.mlp                       [batch, time, width]             what the MLP adds to the residual
    blocks.L                           [batch, time, width]             residual after block L
    norm.scale                         [batch, time, 1]
    norm                               [batch, time, width]             what the unembedding reads
    logits                             [batch, time, vocab]

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
    """What looks into, or edits, a forward pass."""

    def wants(self, name: str) -> bool:
        """Whether this hook is to be called at the point `name`."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor to go on with, of the same shape."""


def apply_hook(hook: Hook | None, name: str, tensor: Tensor) -> Tensor:
    """Show a tensor to the hook, if there is one that wants it."""
    return hook(name, tensor) if hook is not None and hook.wants(name) else tensor


def point_names(architecture: Architecture) -> Iterator[str]:
    """Every point of a forward pass with open attention, in the order in which they are met."""
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
