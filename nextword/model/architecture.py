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
    """Low frequencies divided by `factor`, high ones kept, a smooth ramp between (Llama 3.1).

    Args:
        factor: Divisor of the low frequencies.
        low_frequency_factor: A frequency is low if its wavelength is at least `original_context` divided by this.
        high_frequency_factor: A frequency is high if its wavelength is at most `original_context` divided by this.
        original_context: Context before it was extended, in tokens.
    """

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

    Args:
        theta: Base of the wavelengths.
        fraction: The fraction of each head's dimensions that is rotated, from the first on.
        scaling: How the frequencies of an extended context are changed, None: not at all.
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
    """Which projections add a stored vector.

    Args:
        query_key_value: Those of queries, keys and values.
        attention_output: That of the heads' output to the residual.
        mlp: All of the MLP's.
    """

    query_key_value: bool = False
    attention_output: bool = False
    mlp: bool = False


@dataclass(frozen=True)
class Architecture:
    """The mathematics of one decoder-only, pre-norm transformer.

    Args:
        vocab: The number of rows of the embedding; ids go from 0 to vocab - 1.
        context: The number of positions that the model can read.
        width: Dimensions of the residual stream.
        n_layers: The number of blocks.
        n_heads: The number of query heads of a layer.
        n_kv_heads: The number of key/value heads; query head h reads number h // (n_heads // n_kv_heads) (grouped
            queries, Ainslie et al., 2023).
        head_size: Dimensions of a head.
        norm: Kind of all norms, and their epsilon.
        position: How positions enter.
        mlp: Kind of the MLPs, and their width.
        residual: "parallel" feeds attention and MLP the same input (GPT-J, GPT-NeoX); "serial" one after the other.
        qk_norm: Whether queries and keys are normed, head by head (Henry et al., 2020).
        biases: Which projections add a stored vector.
        tied: Whether the unembedding is the embedding.
        windows: For each layer the number of positions it sees, its own included, or None for all; empty: all, in
            every layer.

    Raises:
        ValueError: The numbers do not go together.
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
        """The number of dimensions of each head that are rotated; 0 without rotary positions."""
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
