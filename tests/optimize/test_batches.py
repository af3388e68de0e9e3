"""A batch is rows of the text and what follows each token, and weights that sum to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextword.errors import InputError
from nextword.optimize.batches import batch
from nextword.optimize.order import Order
from tests.optimize.texts import text_of

DOCUMENTS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 1, 2, 3]]


def test_targets_follow_ids_in_the_text_also_across_its_end() -> None:
    text = text_of(DOCUMENTS, 12)
    order = Order(len(text.tokens), 5, batch_size=4, seed=1)
    ring = np.concatenate([text.tokens, text.tokens])
    for step in range(4):
        read = batch(text, order, step)
        assert read.ids.dtype == read.targets.dtype == torch.int64
        for start, ids, targets in zip(order.starts_of(step), read.ids, read.targets, strict=True):
            assert ids.tolist() == ring[start : start + 5].tolist()
            assert targets.tolist() == ring[start + 1 : start + 6].tolist()
        assert read.bytes == text.token_bytes[read.targets.numpy()].sum()
        assert read.weights.unique().tolist() == pytest.approx([1 / 20])


def test_only_masked_positions_count() -> None:
    mask = [0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    text = text_of(DOCUMENTS, 12, mask)
    order = Order(len(text.tokens), 4, batch_size=4, seed=1)
    read = batch(text, order, 0)
    counted = [[mask[(start + k) % len(mask)] for k in range(1, 5)] for start in order.starts_of(0)]
    assert (read.weights > 0).int().tolist() == counted
    assert read.weights.sum().item() == pytest.approx(1)
    assert read.bytes == (text.token_bytes[read.targets.numpy()] * counted).sum()


def test_a_batch_in_which_nothing_counts_has_no_weight() -> None:
    text = text_of([[1, 2, 3]], 12, [0, 0, 0, 0])
    assert batch(text, Order(4, 3, batch_size=2, seed=0), 0).weights.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_text_shorter_than_one_context_is_refused_in_one_sentence() -> None:
    text = text_of([[1, 2, 3]], 12)
    with pytest.raises(InputError, match=r"^The text has 4 tokens, too few for one row of 64 .*\.$"):
        batch(text, Order(len(text.tokens), 64, batch_size=2, seed=0), 0)
