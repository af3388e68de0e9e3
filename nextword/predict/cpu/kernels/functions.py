"""Elementary functions of 32 numbers at a time, and norms of a row.

Errors, tested against float64: `exponential` and what is made of it stay within 3e-7 of the result's scale,
`gelu_exact` within 5e-7 of |x|.
"""

from __future__ import annotations

import math

import numpy as np

from nextword.predict.cpu.kernels.simd import (
    Floats,
    as_floats,
    as_ints,
    bits_as_floats,
    every,
    every_int,
    floats_at,
    fma,
    inlined,
    keep,
    kernel,
    larger,
    magnitude,
    total,
)
from nextword.predict.cpu.layout import LANES

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; the first has few bits


@inlined
def exponential(x: Floats) -> Floats:
    """exp(x) = 2^n exp(r), r = x - n ln 2 in half of [-ln 2, ln 2], as a Taylor polynomial; x is cut at +-87."""
    x = larger(x, every(np.float32(-87.0)))
    x = every(np.float32(0.0)) - larger(every(np.float32(0.0)) - x, every(np.float32(-87.0)))
    n = as_ints(x * every(_LOG2_E))
    whole = every(np.float32(0.0)) - as_floats(n)
    r = fma(whole, every(_LN2_LOW), fma(whole, every(_LN2_HIGH), x))
    p = every(np.float32(1 / 5040))
    p = fma(p, r, every(np.float32(1 / 720)))
    p = fma(p, r, every(np.float32(1 / 120)))
    p = fma(p, r, every(np.float32(1 / 24)))
    p = fma(p, r, every(np.float32(1 / 6)))
    p = fma(p, r, every(np.float32(1 / 2)))
    p = fma(p, r, every(np.float32(1.0)))
    p = fma(p, r, every(np.float32(1.0)))
    return p * bits_as_floats((n + every_int(127)) << 23)  # the exponent's bits of a float32


@inlined
def sigmoid_times(x: Floats, y: Floats) -> Floats:
    """x / (1 + exp(-y))."""
    return x / (every(np.float32(1.0)) + exponential(every(np.float32(0.0)) - y))


@kernel
def silu(x: Floats) -> Floats:
    """x sigmoid(x)."""
    return sigmoid_times(x, x)


@kernel
def gelu_tanh(x: Floats) -> Floats:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, and (1 + tanh u) / 2 = sigmoid(2 u)."""
    u = fma(x * x * x, every(np.float32(0.044715)), x) * every(np.float32(math.sqrt(8 / math.pi)))
    return sigmoid_times(x, u)


@kernel
def gelu_exact(x: Floats) -> Floats:
    """x (1 + erf(x / sqrt 2)) / 2, erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    z = magnitude(x) * every(np.float32(math.sqrt(0.5)))
    t = every(np.float32(1.0)) / fma(z, every(np.float32(0.3275911)), every(np.float32(1.0)))
    p = every(np.float32(1.061405429))
    p = fma(p, t, every(np.float32(-1.453152027)))
    p = fma(p, t, every(np.float32(1.421413741)))
    p = fma(p, t, every(np.float32(-0.284496736)))
    p = fma(p, t, every(np.float32(0.254829592)))
    tail = p * t * exponential(every(np.float32(0.0)) - z * z)  # 1 - erf(z)
    erf = every(np.float32(1.0)) - tail  # of |x|: x erf(x) is |x| erf(|x|)
    return every(np.float32(0.5)) * fma(magnitude(x), erf, x)


@kernel
def centre_and_scale(x: int, size: int, eps: np.float32, centred: bool) -> tuple[np.float32, np.float32]:
    """The mean of the `size` float32 at x (0 unless centred), and 1 / sqrt(mean((x - mean)^2) + eps)."""
    mean = np.float32(0.0)
    if centred:
        sum = every(np.float32(0.0))
        for at in range(0, size, LANES):
            sum = sum + keep(floats_at(x + 4 * at), 0, size - at, np.float32(0.0))
        mean = total(sum) / np.float32(size)
    squares = every(np.float32(0.0))
    for at in range(0, size, LANES):
        away = keep(floats_at(x + 4 * at) - every(mean), 0, size - at, np.float32(0.0))
        squares = fma(away, away, squares)
    return mean, np.float32(1.0) / math.sqrt(total(squares) / np.float32(size) + eps)


@inlined
def normed(x: int, at: int, size: int, mean: np.float32, scale: np.float32, weight: int, bias: int) -> Floats:
    """(x - mean) * scale * weight + bias, of 32 numbers from number `at` on; 0 from `size` on."""
    y = (floats_at(x + 4 * at) - every(mean)) * every(scale) * floats_at(weight + 4 * at)
    if bias != 0:
        y = y + floats_at(bias + 4 * at)
    return keep(y, 0, size - at, np.float32(0.0))
