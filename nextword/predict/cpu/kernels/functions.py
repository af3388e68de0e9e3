"""Elementary functions of 32 numbers at a time, and the two halves of a norm.

Errors, tested against float64: `exponential` is within 3e-7 of its result, `silu` within 3e-7 of |x|, `gelu_tanh` and
`gelu_exact` within 5e-7 of |x|.
"""

from __future__ import annotations

import math

import numpy as np

from nextword.predict.cpu.kernels.simd import (
    Floats,
    absolute,
    as_floats,
    as_ints,
    bits_as_floats,
    broadcast,
    broadcast_int,
    floats_at,
    fma,
    inlined,
    kernel,
    lane_sum,
    mask_lanes,
    maximum,
)
from nextword.predict.cpu.layout import LANES

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; the first has few bits


@inlined
def exponential(x: Floats) -> Floats:
    """exp(x), with x clipped to +-87.

    exp(x) = 2^n exp(r), where n is the integer nearest to x / ln 2 and r = x - n ln 2, at most ln 2 / 2 in magnitude;
    exp(r) is its Taylor polynomial of degree 7.
    """
    x = maximum(x, broadcast(np.float32(-87.0)))
    x = broadcast(np.float32(0.0)) - maximum(broadcast(np.float32(0.0)) - x, broadcast(np.float32(-87.0)))
    n = as_ints(x * broadcast(_LOG2_E))
    whole = broadcast(np.float32(0.0)) - as_floats(n)
    r = fma(whole, broadcast(_LN2_LOW), fma(whole, broadcast(_LN2_HIGH), x))
    p = broadcast(np.float32(1 / 5040))
    p = fma(p, r, broadcast(np.float32(1 / 720)))
    p = fma(p, r, broadcast(np.float32(1 / 120)))
    p = fma(p, r, broadcast(np.float32(1 / 24)))
    p = fma(p, r, broadcast(np.float32(1 / 6)))
    p = fma(p, r, broadcast(np.float32(1 / 2)))
    p = fma(p, r, broadcast(np.float32(1.0)))
    p = fma(p, r, broadcast(np.float32(1.0)))
    return p * bits_as_floats((n + broadcast_int(127)) << 23)  # the exponent's bits of a float32


@inlined
def times_sigmoid(x: Floats, y: Floats) -> Floats:
    """x sigmoid(y) = x / (1 + exp(-y))."""
    return x / (broadcast(np.float32(1.0)) + exponential(broadcast(np.float32(0.0)) - y))


@kernel
def silu(x: Floats) -> Floats:
    """SiLU: x sigmoid(x)."""
    return times_sigmoid(x, x)


@kernel
def gelu_tanh(x: Floats) -> Floats:
    """GELU with tanh: x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).

    Source: Hendrycks and Gimpel, 2016.
    """
    u = fma(x * x * x, broadcast(np.float32(0.044715)), x) * broadcast(np.float32(math.sqrt(8 / math.pi)))
    return times_sigmoid(x, u)


@kernel
def gelu_exact(x: Floats) -> Floats:
    """GELU: x (1 + erf(x / sqrt 2)) / 2, with erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    z = absolute(x) * broadcast(np.float32(math.sqrt(0.5)))
    t = broadcast(np.float32(1.0)) / fma(z, broadcast(np.float32(0.3275911)), broadcast(np.float32(1.0)))
    p = broadcast(np.float32(1.061405429))
    p = fma(p, t, broadcast(np.float32(-1.453152027)))
    p = fma(p, t, broadcast(np.float32(1.421413741)))
    p = fma(p, t, broadcast(np.float32(-0.284496736)))
    p = fma(p, t, broadcast(np.float32(0.254829592)))
    tail = p * t * exponential(broadcast(np.float32(0.0)) - z * z)  # 1 - erf(z)
    erf = broadcast(np.float32(1.0)) - tail  # of |x|: x erf(x) is |x| erf(|x|)
    return broadcast(np.float32(0.5)) * fma(absolute(x), erf, x)


@kernel
def norm_statistics(x: int, size: int, eps: np.float32, centred: bool) -> tuple[np.float32, np.float32]:
    """The mean (0 unless centred) and 1 / sqrt(mean((x - mean)^2) + eps) of a row.

    Args:
        x: Address of float32 [size], in whole LANES.
        size: The number of numbers.
        eps: Added to the mean square.
        centred: Whether the mean is subtracted: LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019).
    """
    mean = np.float32(0.0)
    if centred:
        sum = broadcast(np.float32(0.0))
        for at in range(0, size, LANES):
            sum = sum + mask_lanes(floats_at(x + 4 * at), 0, size - at, np.float32(0.0))
        mean = lane_sum(sum) / np.float32(size)
    squares = broadcast(np.float32(0.0))
    for at in range(0, size, LANES):
        away = mask_lanes(floats_at(x + 4 * at) - broadcast(mean), 0, size - at, np.float32(0.0))
        squares = fma(away, away, squares)
    return mean, np.float32(1.0) / math.sqrt(lane_sum(squares) / np.float32(size) + eps)


@inlined
def norm_lanes(x: int, at: int, size: int, mean: np.float32, scale: np.float32, weight: int, bias: int) -> Floats:
    """32 numbers of a norm's output: (x - mean) * scale * weight + bias; 0 behind the end of the row.

    Args:
        x: Address of float32 [size], in whole LANES.
        at: Index of the first of the 32 numbers.
        size: The number of numbers of the row.
        mean: From `norm_statistics`.
        scale: From `norm_statistics`.
        weight: Address of float32 [size], in whole LANES.
        bias: The same, or 0 if there is none.
    """
    y = (floats_at(x + 4 * at) - broadcast(mean)) * broadcast(scale) * floats_at(weight + 4 * at)
    if bias != 0:
        y = y + floats_at(bias + 4 * at)
    return mask_lanes(y, 0, size - at, np.float32(0.0))
