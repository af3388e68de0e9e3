"""nextword.optimize.forecast: what a table of three tokens in a row knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nextword.optimize.forecast import forecast_bits_per_byte, ngram_probabilities
from tests.optimize.texts import TinyText

VOCAB = 5


@pytest.mark.parametrize("context", [[0, 1], [3, 3], [4, 0]])
def test_probabilities_of_one_place_sum_to_one(context: list[int]) -> None:
    known = np.random.default_rng(1).integers(0, VOCAB - 1, 300)  # the last token is never seen
    odds = [ngram_probabilities(known, np.array([*context, token]), VOCAB)[0] for token in range(VOCAB)]
    assert sum(odds) == pytest.approx(1)
    assert min(odds) > 0


def test_a_trigram_that_always_holds_is_learned() -> None:
    known = np.tile([0, 1, 2, 1, 3, 1], 500)  # what follows 1 depends on the token before it
    odds = ngram_probabilities(known, np.array([0, 1, 2, 1, 3]), VOCAB)
    assert odds.min() > 0.99


def chain() -> tuple[TinyText, TinyText]:
    """A text in which a token depends on the one before it, and more of it to be held out."""
    rng = np.random.default_rng(2)
    odds = rng.dirichlet(np.full(VOCAB, 0.3), size=VOCAB)
    tokens = [0]
    for _ in range(30_000):
        tokens.append(rng.choice(VOCAB, p=odds[tokens[-1]]))
    text, heldout = (
        TinyText(np.array(part, np.uint16), np.array([0, len(part)]), None, np.full(VOCAB, 1, np.uint8))
        for part in (tokens[:25_000], tokens[25_000:])
    )
    return text, heldout


def test_more_reading_is_forecast_to_help() -> None:
    text, heldout = chain()
    much, little = (forecast_bits_per_byte(text, heldout, n) for n in (20_000, 2_000))
    assert much is not None
    assert little is not None
    assert 0.5 < much < little < 4


def test_reading_again_is_forecast_to_help_less_each_time() -> None:
    text, heldout = chain()
    once, twice, often, always = (
        forecast_bits_per_byte(text, heldout, readings * len(text.tokens)) or 0.0 for readings in (1, 2, 50, 5000)
    )
    assert once > twice > often > always
    assert often - always < 0.01 * often < once - often


def test_no_better_is_forecast_than_where_the_run_ends_or_than_can_be() -> None:
    text, heldout = chain()
    free = forecast_bits_per_byte(text, heldout, 20_000)
    assert free is not None
    assert forecast_bits_per_byte(text, heldout, 20_000, until=free + 0.3) == free + 0.3
    assert forecast_bits_per_byte(text, heldout, 20_000, until=free - 0.3) == free
    assert forecast_bits_per_byte(text, heldout, 20_000, floor=free + 0.1) == free + 0.1
    pairs = forecast_bits_per_byte(text, heldout, 20_000, until=free + 2, init="bigrams")
    assert pairs is not None
    assert pairs < free + 1  # it is that good before the first step


def test_only_what_counts_is_forecast() -> None:
    text, heldout = chain()
    following = np.concatenate(([0], heldout.tokens[:-1]))
    after_one = replace(heldout, mask=(following == 1).astype(np.uint8))
    others = replace(heldout, mask=(following != 1).astype(np.uint8))
    whole, part, rest = (forecast_bits_per_byte(text, each, 20_000) for each in (heldout, after_one, others))
    assert whole is not None
    assert part is not None
    assert rest is not None
    share = after_one.mask[2:].mean()  # type: ignore[union-attr]
    assert part != pytest.approx(whole, rel=0.05)
    assert share * part + (1 - share) * rest == pytest.approx(whole)
    nothing = replace(heldout, mask=np.zeros_like(heldout.tokens, np.uint8))
    assert forecast_bits_per_byte(text, nothing, 20_000) is None


def test_nothing_is_forecast_for_a_text_without_three_tokens() -> None:
    text, heldout = (
        TinyText(np.zeros(n, np.uint16), np.array([0, n]), None, np.full(VOCAB, 1, np.uint8)) for n in (100, 2)
    )
    assert forecast_bits_per_byte(text, heldout, 100) is None
