"""What a model computes, as a small frozen value; which tensors it stores, as a table of names and shapes.

`Architecture` describes the mathematics and nothing else: no family's name, no file format, no torch. Every
model family is translated into it when its weights are loaded, with all layouts already normalised:

- a projection is stored [out, in] and maps a row vector x to x @ W.T;
- query, key and value are three separate projections, heads in order;
- rotary positions rotate the first `Rotary.fraction` of each head, as two halves (x1, x2) -> (x1 cos - x2 sin,
  x2 cos + x1 sin), never as interleaved pairs.

`tensor_shapes` is the contract between stored weights and the equations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba et al., 2016)."""

    eps: float


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich, 2019)."""

    eps: float


@dataclass(frozen=True)
class LinearScaling:
    """Rotary angles divided by `factor` (position interpolation, Chen et al., 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a smooth ramp between (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True)
class Learned:
    """A stored vector for each position, added to the token's embedding (GPT)."""


@dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by position (RoPE, Su et al., 2021).

    `fraction` of each head's dimensions are rotated, the first ones; `theta` is the base of the wavelengths.
    """

    theta: float
    fraction: float = 1.0
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclass(frozen=True)
class Gelu:
    """down(gelu(up(x))), hidden width `width`; the tanh approximation or the exact error function."""

    width: int
    approximate: Literal["tanh", "none"]


@dataclass(frozen=True)
class SwiGLU:
    """down(silu(gate(x)) * up(x)), hidden width `width` (Shazeer, 2020)."""

    width: int


@dataclass(frozen=True)
class Biases:
    """Which projections add a stored vector."""

    query_key_value: bool = False
    attention_output: bool = False
    mlp: bool = False


@dataclass(frozen=True)
class Architecture:
    """The mathematics of one decoder-only, pre-norm transformer.

    `windows[l]` is how many positions layer l sees, itself included, or None for all of them. `residual`
    "parallel" feeds attention and MLP the same input (GPT-J, GPT-NeoX); "serial" one after the other.
    Query head h reads key/value head h // (n_heads // n_kv_heads). Raises ValueError for numbers that do not go
    together.
    """

    vocab: int
    context: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    norm: LayerNorm | RMSNorm
    position: Learned | Rotary
    mlp: Gelu | SwiGLU
    residual: Literal["serial", "parallel"] = "serial"
    qk_norm: bool = False
    biases: Biases = field(default_factory=Biases)
    tied: bool = False
    windows: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.windows:
            object.__setattr__(self, "windows", (None,) * self.n_layers)
        if len(self.windows) != self.n_layers:
            raise ValueError(f"{len(self.windows)} windows are given for {self.n_layers} layers.")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} key/value heads evenly.")
        if self.rotary_size % 2 or self.rotary_size > self.head_size:
            raise ValueError(f"{self.rotary_size} of {self.head_size} dimensions of a head cannot be rotated in pairs.")

    @property
    def rotary_size(self) -> int:
        """How many dimensions of each head are rotated; 0 without rotary positions."""
        return int(self.head_size * self.position.fraction) if isinstance(self.position, Rotary) else 0

    @property
    def n_parameters(self) -> int:
        """Number of stored weights; a tied embedding counts once."""
        return sum(int(np.prod(shape)) for shape in tensor_shapes(self).values())


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this architecture stores, in the order of use."""
    a = architecture
    queries, keys = a.n_heads * a.head_size, a.n_kv_heads * a.head_size
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (a.vocab, a.width)}

    def linear(name: str, outputs: int, inputs: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = (size,)
        if isinstance(a.norm, LayerNorm):
            shapes[f"{name}.bias"] = (size,)

    if isinstance(a.position, Learned):
        shapes["position.weight"] = (a.context, a.width)
    for layer in range(a.n_layers):
        block = f"blocks.{layer}"
        norm(f"{block}.attention_norm", a.width)
        linear(f"{block}.attention.query", queries, a.width, a.biases.query_key_value)
        linear(f"{block}.attention.key", keys, a.width, a.biases.query_key_value)
        linear(f"{block}.attention.value", keys, a.width, a.biases.query_key_value)
        if a.qk_norm:
            shapes[f"{block}.attention.query_norm.weight"] = (a.head_size,)
            shapes[f"{block}.attention.key_norm.weight"] = (a.head_size,)
        linear(f"{block}.attention.output", a.width, queries, a.biases.attention_output)
        norm(f"{block}.mlp_norm", a.width)
        if isinstance(a.mlp, SwiGLU):
            linear(f"{block}.mlp.gate", a.mlp.width, a.width, a.biases.mlp)
        linear(f"{block}.mlp.up", a.mlp.width, a.width, a.biases.mlp)
        linear(f"{block}.mlp.down", a.width, a.mlp.width, a.biases.mlp)
    norm("norm", a.width)
    if not a.tied:
        shapes["unembed.weight"] = (a.vocab, a.width)
    return shapes


def rotary_frequencies(position: Rotary, size: int) -> npt.NDArray[np.float32]:
    """Angle per position of each rotated pair, in radians, float32 [size / 2], for `size` rotated dimensions.

    theta ** (-2i / size), then the scaling. In float32 as the published models' were, each power rounded from the exact
    one: what float32 powers round to differs from processor to processor.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = [float(np.float32(position.theta)) ** exponent for exponent in exponents.tolist()]
    frequencies = np.float32(1.0) / np.array(powers, np.float32)
    match position.scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return (frequencies / np.float32(factor)).astype(np.float32)
        case Llama3Scaling(factor, low, high, original):
            wavelengths = 2 * np.pi / frequencies
            ramp = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
            return ((1 - ramp) * frequencies / factor + ramp * frequencies).astype(np.float32)
