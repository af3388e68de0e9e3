"""The equations: one pre-norm decoder-only transformer, the reference that everything else is tested against.

    x = embed(ids) (+ position)
    each block:  serial    x += attention(norm(x));  x += mlp(norm(x))
                 parallel  x += attention(norm(x)) + mlp(norm'(x))
    logits = unembed(norm(x))

    attention:  q, k, v = W x;  softmax(q.k / sqrt(head size), over visible earlier positions) mixes v;  W_output
    mlp:        W_down gelu(W_up x)   or   W_down (silu(W_gate x) * W_up x)

`Transformer.forward(ids, kv_cache=None, hook=None)`: without either it is the training pass; with a KV cache it
reads on from where the cache ends; with a hook its activations can be read and edited (nextword.model.hooks). Parameter
names and shapes are those of `tensor_shapes`.

Sources: Vaswani et al. 2017; Radford et al. 2019 (GPT-2); Su et al. 2021 (RoPE); Touvron et al. 2023 (Llama);
Henry et al. 2020 (QK-norm); Black et al. 2022 (GPT-NeoX, parallel residual).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from nextword.model.architecture import (
    Architecture,
    Gelu,
    LayerNorm,
    Learned,
    Rotary,
    SwiGLU,
    rotary_frequencies,
)
from nextword.model.hooks import Hook, apply_hook
from nextword.model.kv_cache import KVCache
from nextword.model.types import Tensor


class Transformer(nn.Module):
    """A model of the given architecture; its parameters are uninitialised until weights are loaded or drawn.

    Change the parameters' dtype one by one rather than with `.to(dtype)`, which would round the rotary
    frequencies too.
    """

    frequencies: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.embed = _embedding(a.vocab, a.width)
        if isinstance(a.position, Learned):
            self.position = _embedding(a.context, a.width)
        else:
            frequencies = torch.from_numpy(rotary_frequencies(a.position, a.rotary_size))
            self.register_buffer("frequencies", frequencies, persistent=False)
        self.blocks = nn.ModuleList(Block(a, layer) for layer in range(a.n_layers))
        self.norm = Norm(a, a.width, "norm")
        self.unembed = nn.Linear(a.width, a.vocab, bias=False)
        if a.tied:
            self.unembed.weight = self.embed.weight

    @staticmethod
    def of(architecture: Architecture, weights: Mapping[str, Tensor]) -> Transformer:
        """A model that uses these weights, named and shaped as `tensor_shapes` says, without copying them."""
        with torch.device("meta"):
            model = Transformer(architecture)
        tied = {"unembed.weight": weights["embed.weight"]} if architecture.tied else {}
        model.load_state_dict({**weights, **tied}, assign=True)
        if architecture.tied:
            model.unembed.weight = model.embed.weight
        return model

    def forward(self, ids: Tensor, kv_cache: KVCache | None = None, hook: Hook | None = None) -> Tensor:
        """Logits [batch, time, vocab] for the token after each of `ids`.

        Args:
            ids: Token ids [batch, time], integers.
            kv_cache: Keys and values of the positions before `ids`; those of `ids` are appended, and the caller says
                that they count (`KVCache.advance`). None: `ids` begin the text, and nothing is kept.
            hook: What reads or edits activations, None for nothing.
        """
        return self.logits(self.states(ids, kv_cache, hook), hook)

    def states(self, ids: Tensor, kv_cache: KVCache | None = None, hook: Hook | None = None) -> Tensor:
        """What the unembedding reads [batch, time, width]: the residual after the last block, normed.

        Args:
            ids: Token ids [batch, time], integers.
            kv_cache: As in `forward`.
            hook: As in `forward`.
        """
        start = 0 if kv_cache is None else kv_cache.length
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.embed(ids)
        if isinstance(self.architecture.position, Learned):
            x = x + self.position(positions)
        x = apply_hook(hook, "embed", x)
        pass_ = Pass(positions, self._cos_sin(positions), kv_cache, hook)
        for block in self.blocks:
            x = block(x, pass_)
        states: Tensor = self.norm(x, hook)
        return states

    def logits(self, states: Tensor, hook: Hook | None = None) -> Tensor:
        """Logits [..., vocab] of states [..., width]."""
        return apply_hook(hook, "logits", self.unembed(states))

    def _cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine [time, rotary_size / 2] of the rotation at each position."""
        if not isinstance(self.architecture.position, Rotary):
            return None
        angles = positions[:, None] * self.frequencies
        return angles.cos(), angles.sin()


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Uninitialised. To draw weights that are then replaced would make torch import its compiler: a second or more."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


@dataclass(frozen=True)
class Pass:
    """What all blocks share during one forward pass.

    Args:
        positions: Of the tokens that are read, counted from the text's first [time].
        cos_sin: Cosine and sine of the rotation at each, [time, rotary_size / 2] each; None without rotary positions.
        kv_cache: Keys and values of the positions before, None where the pass begins the text.
        hook: What reads or edits activations, None for nothing.
    """

    positions: Tensor
    cos_sin: tuple[Tensor, Tensor] | None
    kv_cache: KVCache | None
    hook: Hook | None


class Block(nn.Module):
    """One layer: attention and MLP, each behind its norm, added to the residual."""

    def __init__(self, a: Architecture, layer: int) -> None:
        super().__init__()
        self.name = f"blocks.{layer}"
        self.parallel = a.residual == "parallel"
        self.attention_norm = Norm(a, a.width, f"{self.name}.attention_norm")
        self.attention = Attention(a, layer)
        self.mlp_norm = Norm(a, a.width, f"{self.name}.mlp_norm")
        self.mlp = MLP(a, f"{self.name}.mlp")

    def forward(self, x: Tensor, pass_: Pass) -> Tensor:
        """The residual [batch, time, width] after this block."""
        hook = pass_.hook
        attended = self.attention(self.attention_norm(x, hook), pass_)
        if self.parallel:
            x = x + attended + self.mlp(self.mlp_norm(x, hook), hook)
        else:
            x = x + attended
            x = x + self.mlp(self.mlp_norm(x, hook), hook)
        return apply_hook(hook, self.name, x)


class Attention(nn.Module):
    """Causal self-attention, with grouped queries, a window or rotary positions where the architecture has them."""

    def __init__(self, a: Architecture, layer: int) -> None:
        super().__init__()
        self.name = f"blocks.{layer}.attention"
        self.layer, self.head_size, self.rotary_size = layer, a.head_size, a.rotary_size
        self.window = a.windows[layer]
        queries, keys, bias = a.n_heads * a.head_size, a.n_kv_heads * a.head_size, a.biases.query_key_value
        self.query = nn.Linear(a.width, queries, bias=bias)
        self.key = nn.Linear(a.width, keys, bias=bias)
        self.value = nn.Linear(a.width, keys, bias=bias)
        self.qk_norm = a.qk_norm
        if a.qk_norm:
            self.query_norm = Norm(a, a.head_size)
            self.key_norm = Norm(a, a.head_size)
        self.output = nn.Linear(queries, a.width, bias=a.biases.attention_output)

    def forward(self, x: Tensor, pass_: Pass) -> Tensor:
        """What the heads together add to the residual, from its normed value `x`, both [batch, time, width]."""
        hook = pass_.hook
        query, key, value = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query = apply_hook(hook, f"{self.name}.query", query)
        key = apply_hook(hook, f"{self.name}.key", key)
        value = apply_hook(hook, f"{self.name}.value", value)
        if pass_.cos_sin is not None:
            query, key = (apply_rope(each, pass_.cos_sin, self.rotary_size) for each in (query, key))
        if pass_.kv_cache is not None:
            key, value = pass_.kv_cache.append(self.layer, key, value)
        if hook is not None and (hook.wants(f"{self.name}.scores") or hook.wants(f"{self.name}.pattern")):
            z = self._open(query, key, value, pass_)
        else:
            z = self._fused(query, key, value, pass_)
        z = apply_hook(hook, f"{self.name}.z", z)
        return apply_hook(hook, self.name, self.output(z.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, time, heads * head size] to [batch, heads, time, head size]."""
        return x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, pass_: Pass) -> Tensor:
        """Values averaged by attention [batch, heads, time, head size], by torch's fused kernel."""
        time, length = query.shape[2], key.shape[2]
        sees_all = self.window is None or length <= self.window
        causal = sees_all and time == length
        mask = None if causal or (sees_all and time == 1) else visible(pass_.positions, length, self.window)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal and time > 1, enable_gqa=query.shape[1] != key.shape[1]
        )

    def _open(self, query: Tensor, key: Tensor, value: Tensor, pass_: Pass) -> Tensor:
        """The same step by step, with scores and pattern shown to the hook."""
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5
        scores = scores.masked_fill(~visible(pass_.positions, key.shape[2], self.window), -torch.inf)
        scores = apply_hook(pass_.hook, f"{self.name}.scores", scores)
        pattern = apply_hook(pass_.hook, f"{self.name}.pattern", scores.softmax(-1))
        return pattern @ value


class MLP(nn.Module):
    """The feed-forward part of a block, gated (SwiGLU) or not (GELU)."""

    def __init__(self, a: Architecture, name: str) -> None:
        super().__init__()
        self.name, self.kind = name, a.mlp
        if isinstance(a.mlp, SwiGLU):
            self.gate = nn.Linear(a.width, a.mlp.width, bias=a.biases.mlp)
        self.up = nn.Linear(a.width, a.mlp.width, bias=a.biases.mlp)
        self.down = nn.Linear(a.mlp.width, a.width, bias=a.biases.mlp)

    def forward(self, x: Tensor, hook: Hook | None) -> Tensor:
        """What the MLP adds to the residual, from its normed value `x`, both [batch, time, width]."""
        match self.kind:
            case SwiGLU():
                gate = apply_hook(hook, f"{self.name}.gate", self.gate(x))
                activation = F.silu(gate) * apply_hook(hook, f"{self.name}.up", self.up(x))
            case Gelu(approximate=approximate):
                activation = F.gelu(apply_hook(hook, f"{self.name}.up", self.up(x)), approximate=approximate)
        activation = apply_hook(hook, f"{self.name}.activation", activation)
        return apply_hook(hook, self.name, self.down(activation))


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last dimension, with its scale open to the hook; never below fp32.

    Args:
        a: The model's architecture, which says of what kind norms are.
        size: Of the last dimension.
        name: Of its hook points; empty for a norm of heads, which has none and stores no bias.
    """

    def __init__(self, a: Architecture, size: int, name: str = "") -> None:
        super().__init__()
        self.name, self.eps, self.centred = name, a.norm.eps, isinstance(a.norm, LayerNorm)
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if self.centred and name else None

    def forward(self, x: Tensor, hook: Hook | None = None) -> Tensor:
        """`x` [..., size], normed, of the same dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        scale = apply_hook(hook, f"{self.name}.scale", torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps))
        y = (wide * scale).to(x.dtype) * self.weight
        return apply_hook(hook, self.name, y if self.bias is None else y + self.bias)


def apply_rope(x: Tensor, cos_sin: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of queries or keys, in the layout of two halves.

    Args:
        x: Queries or keys [batch, heads, time, head size].
        cos_sin: Cosine and sine of the angle of each position and pair of dimensions, each [time, size / 2].
        size: The number of dimensions that are rotated, from the first on; the rest stays as it is.

    Returns:
        A tensor of the shape and dtype of `x`.
    """
    cos, sin = cos_sin
    first, second, rest = torch.split(x, [size // 2, size // 2, x.shape[-1] - size], dim=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin, rest)
    return torch.cat(rotated, dim=-1).to(x.dtype)


def visible(positions: Tensor, length: int, window: int | None) -> Tensor:
    """The attention mask, bool [time, length]: which positions each query may read, the past and its own.

    Args:
        positions: Of the queries, counted from the text's first [time].
        length: The number of keys, which stand at positions 0 to length - 1.
        window: The number of positions that a query sees, its own included; None for all.
    """
    distance = positions[:, None] - torch.arange(length, device=positions.device)
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
