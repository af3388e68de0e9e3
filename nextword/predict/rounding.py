"""Quantization error: what rounding its weights does to a model, measured as its probabilities before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextword.predict.engine import Engine
from nextword.predict.score import log_softmax


@dataclass(frozen=True)
class QuantizationError:
    """The difference between a model with rounded weights and the same model in float32, on one text.

    Args:
        kl: Mean of the Kullback-Leibler divergence KL(float32 || rounded), nats per token.
        top_1: Share of the positions at which both have the same most probable token.
        bits_per_byte: Of the text, with rounded weights.
        bits_per_byte_fp32: Of the text, with float32 weights.
        tokens: The number of tokens of the text.
    """

    kl: float
    top_1: float
    bits_per_byte: float
    bits_per_byte_fp32: float
    tokens: int


def measure_quantization_error(exact: Engine, rounded: Engine, ids: Sequence[int], n_bytes: int) -> QuantizationError:
    """Compare two engines on one text.

    Args:
        exact: The model in float32.
        rounded: The same model with rounded weights.
        ids: The text, at least two tokens.
        n_bytes: The bytes of all tokens but the first.
    """
    expected, found = (log_softmax(engine.open_session(len(ids)).feed_all(ids)) for engine in (exact, rounded))
    following = np.arange(len(ids) - 1), np.array(ids[1:])
    bits, exact_bits = (-float(each[following].sum()) / np.log(2) / n_bytes for each in (found, expected))
    return QuantizationError(
        kl=float((np.exp(expected) * (expected - found)).sum(-1).mean()),
        top_1=float((expected.argmax(-1) == found.argmax(-1)).mean()),
        bits_per_byte=bits,
        bits_per_byte_fp32=exact_bits,
        tokens=len(ids),
    )
