"""The order visits every row of an epoch once, can be inverted, and knows no state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.errors import InputError
from nextword.optimize.order import Exposure, Order


@st.composite
def orders(draw: st.DrawFn, smallest: int = 1) -> Order:
    context = draw(st.integers(1, 12))
    n_tokens = draw(st.integers(context * smallest + 1, context * 40 + 1))
    return Order(n_tokens, context, batch_size=draw(st.integers(1, 20)), seed=draw(st.integers(-(2**63), 2**65)))


def visits(order: Order, epochs: int) -> list[tuple[int, int]]:
    """(epoch, row) of everything read until the end of this many epochs, in order."""
    steps = -(-order.rows_per_epoch * epochs // order.batch_size)
    read = [pair for step in range(steps) for pair in zip(*order.rows_of(step), strict=True)]
    return read[: order.rows_per_epoch * epochs]


@settings(max_examples=30, deadline=None)
@given(orders())
def test_every_epoch_visits_every_row_once_and_epochs_follow_without_a_gap(order: Order) -> None:
    read = visits(order, 3)
    size = order.rows_per_epoch
    for epoch in range(3):
        rows = read[epoch * size : (epoch + 1) * size]
        assert {e for e, _ in rows} == {epoch}
        assert sorted(r for _, r in rows) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(orders())
def test_exposures_are_the_inverse(order: Order) -> None:
    """Reading the batches of all steps finds each token where `exposures` says, and nowhere else."""
    steps = 2 * order.rows_per_epoch // order.batch_size + 2
    found: dict[int, list[tuple[int, int, int]]] = {t: [] for t in range(order.n_tokens)}
    for step in range(steps):
        epochs, _ = order.rows_of(step)
        for place, start in enumerate(order.starts_of(step)):
            for k in range(1, order.context + 1):
                found[(start + k) % order.n_tokens].append((int(epochs[place]), step, place))
    for token in (0, 1, order.n_tokens // 2, order.n_tokens - 1):
        said = [(e.epoch, e.step, e.place) for e in order.exposures(range(token, token + 1), steps)]
        assert said == found[token]
    passage = range(order.n_tokens // 3, order.n_tokens)
    together = sorted({where for token in passage for where in found[token]})
    assert [(e.epoch, e.step, e.place) for e in order.exposures(passage, steps)] == together


@settings(max_examples=30, deadline=None)
@given(orders(smallest=4))
def test_two_epochs_in_a_row_predict_every_token(order: Order) -> None:
    for first in (0, 1):
        seen = np.zeros(order.n_tokens, dtype=int)
        for epoch in (first, first + 1):
            in_epoch = np.zeros(order.n_tokens, dtype=int)
            offset = int(order._offsets(np.array([epoch]))[0])
            predicted = offset + 1 + np.arange(order.rows_per_epoch * order.context)
            np.add.at(in_epoch, predicted % order.n_tokens, 1)
            assert in_epoch.max() == 1
            seen += in_epoch
        assert seen.min() >= 1


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    def rows(seed: int) -> list[int]:
        return [int(r) for _, r in visits(Order(1001, 10, batch_size=7, seed=seed), 2)]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
    assert rows(1)[:100] != rows(1)[100:]


@pytest.mark.parametrize("size", [2, 3, 5, 9])
def test_every_place_gets_every_row_equally_often(size: int) -> None:
    """Also over a few rows, where a weak cipher would show; 4.9 standard deviations are allowed."""
    epochs = 4000
    order = Order(size * 3 + 1, 3, batch_size=size * epochs, seed=11)
    _, rows = order.rows_of(0)
    counts = np.array([np.bincount(column, minlength=size) for column in rows.reshape(epochs, size).T])
    expected = epochs / size
    assert np.abs(counts - expected).max() < 4.9 * np.sqrt(expected * (1 - 1 / size))


def test_a_large_text_costs_no_more_than_a_small_one() -> None:
    order = Order(10**13, 1000, batch_size=512, seed=3)
    epochs, rows = order.rows_of(10**6)
    assert set(epochs.tolist()) == {0}
    assert len(set(rows.tolist())) == 512
    position = (int(order.starts_of(10**6)[7]) + 500) % order.n_tokens
    assert order.exposures(range(position, position + 1), 10**6 + 1) == [Exposure(0, 10**6, 7)]


def test_a_text_shorter_than_one_row_is_refused() -> None:
    with pytest.raises(InputError, match="has 8 tokens, too few for one row of 8"):
        Order(8, 8, batch_size=1, seed=0)
