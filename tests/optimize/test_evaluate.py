"""Bits per byte of held-out text, against a plain computation document by document."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.optimize.evaluate import evaluate
from tests.optimize.texts import BEGIN, TinyText, random_weights, text_of, tiny_architecture

ARCHITECTURE = tiny_architecture(vocab=12, context=8)
MODEL = Transformer.of(ARCHITECTURE, random_weights(ARCHITECTURE))


def nats(ids: list[int], first: int = 0) -> float:
    """-log p of ids[first + 1 :] in one pass over ids."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([ids[:-1]]))[0]
    return float(F.cross_entropy(logits[first:], torch.tensor(ids[first + 1 :]), reduction="sum"))


def text_bytes(text: TinyText) -> int:
    return int(text.token_bytes[text.tokens].sum())


def test_short_documents_are_read_one_by_one_from_their_begin_token() -> None:
    documents = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11, 1], [2, 2]]
    text = text_of(documents, 12)
    expected = sum(nats([BEGIN, *document]) for document in documents if document)
    result = evaluate(MODEL, text)
    assert (result.tokens, result.bytes) == (14, text_bytes(text))
    assert result.nats == pytest.approx(expected, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(expected / log(2) / text_bytes(text), rel=1e-5)


def test_long_documents_are_read_in_windows_that_overlap_by_half_a_context() -> None:
    document = [BEGIN, *(1 + i * 7 % 11 for i in range(14))]
    expected = nats(document[:9]) + nats(document[4:13], 4) + nats(document[8:15], 4)
    result = evaluate(MODEL, text_of([document[1:]], 12))
    assert result.tokens == 14
    assert result.nats == pytest.approx(expected, rel=1e-5)


def test_masked_tokens_count_neither_in_bits_nor_in_bytes() -> None:
    document = [BEGIN, 4, 5, 6]
    result = evaluate(MODEL, text_of([document[1:]], 12, [1, 0, 0, 1]))
    assert (result.tokens, result.bytes) == (1, 6 % 3 + 1)
    assert result.nats == pytest.approx(nats(document, 2), rel=1e-5)


def test_the_figure_is_the_same_every_time_and_leaves_the_random_state_alone() -> None:
    text = text_of([[1 + i % 11 for i in range(40)]], 12)
    before = torch.get_rng_state()
    assert evaluate(MODEL, text) == evaluate(MODEL, text)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_limit_reads_windows_spread_over_the_text() -> None:
    documents = [[1 + i % 11] * 4 for i in range(100)]
    text = text_of(documents, 12)
    part = evaluate(MODEL, text, limit=40)
    assert part.tokens == 40
    chosen = [documents[5 + 10 * i] for i in range(10)]
    assert part.nats == pytest.approx(sum(nats([BEGIN, *document]) for document in chosen), rel=1e-5)
    assert evaluate(MODEL, text, limit=400) == evaluate(MODEL, text)


def test_a_uniform_model_needs_log2_of_the_vocabulary_a_token() -> None:
    weights = {name: torch.zeros_like(tensor) for name, tensor in random_weights(ARCHITECTURE).items()}
    text = text_of([[3, 6, 9]], 12)  # a byte each
    assert evaluate(Transformer.of(ARCHITECTURE, weights), text).bits_per_byte == pytest.approx(np.log2(12), rel=1e-6)


def test_nothing_to_predict_is_refused() -> None:
    with pytest.raises(InputError, match="held-out text is empty"):
        evaluate(MODEL, text_of([[], []], 12))
