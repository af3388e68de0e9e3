"""What rounding its weights does to a model: the odds it gives before and after, on one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextword.predict.engine import Engine
from nextword.predict.score import log_softmax


@dataclass(frozen=True)
class Loss:
    """Measured on a text of `tokens` tokens, against the same weights in float32.

    kl: mean of KL(float32 || rounded) in nats a token. top_1: share of positions with the same favourite.
    bits_per_byte: of the text, rounded and in float32.
    """

    kl: float
    top_1: float
    bits_per_byte: float
    bits_per_byte_fp32: float
    tokens: int


def measure_loss(exact: Engine, rounded: Engine, ids: Sequence[int], n_bytes: int) -> Loss:
    """How much `rounded` differs from `exact` on at least two tokens; all but the first are `n_bytes` long."""
    expected, found = (log_softmax(engine.open_session(len(ids)).feed_all(ids)) for engine in (exact, rounded))
    following = np.arange(len(ids) - 1), np.array(ids[1:])
    bits, exact_bits = (-float(each[following].sum()) / np.log(2) / n_bytes for each in (found, expected))
    return Loss(
        kl=float((np.exp(expected) * (expected - found)).sum(-1).mean()),
        top_1=float((expected.argmax(-1) == found.argmax(-1)).mean()),
        bits_per_byte=bits,
        bits_per_byte_fp32=exact_bits,
        tokens=len(ids),
    )
