"""How good a model will be, before it is trained: bits per byte from counts of three tokens in a row.

A model that has read n tokens predicts about as well as a trigram table made of n tokens of the same text; somewhat
worse while it has read little, better and better afterwards. The table (interpolated Kneser-Ney, Kneser & Ney, 1995)
takes a second to make, and knows of the text what matters: how varied it is, and how much of it there is. The factor
between the two was measured on runs of three texts (see the log); on the natural texts of those runs the forecast is
within about 6 % of the result. A language with rules that reach further than three tokens is learned better than
forecast. What is read again teaches less each time, and after `FADING` readings hardly more; that it may then make the
model worse is not foreseen. A model that starts from pairs (`nextword.optimize.bigrams`) is never worse than a table of
the pairs of the whole text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.optimize.batches import Text

Ints = npt.NDArray[np.int64]

DISCOUNT = 0.75  # of Kneser-Ney
_ORDER = 3
_COUNTED, _SCORED, _PIECE = 1_000_000, 60_000, 256  # tokens
FADING = 15.4  # readings of a text after the first, about (Muennighoff et al., 2023): see `_worth`
_FACTOR, _AT, _POWER = 1.04, 250_000, -0.055  # model / table = factor * (tokens read / at) ** power


def forecast_bits_per_byte(
    text: Text,
    heldout: Text,
    tokens_read: int,
    *,
    from_pairs: bool = False,
    until: float | None = None,
    floor: float | None = None,
) -> float | None:
    """Bits per byte of `heldout` that a model is expected to need after reading `tokens_read` tokens of `text`.

    until: the run ends as soon as so few are needed. floor: no model needs fewer. None for a held-out text with nothing
    that counts after its first two tokens.
    """
    new, size = _spread(heldout.tokens, _SCORED), _spread(_counted_bytes(heldout), _SCORED)
    table = _table_bits(_spread(text.tokens, min(tokens_read, _COUNTED)), new, size, heldout, _ORDER)
    if table is None:
        return None
    forecast = table * _FACTOR * math.pow(_worth(tokens_read, len(text.tokens)) / _AT, _POWER)
    pairs = _table_bits(_spread(text.tokens, _COUNTED), new, size, heldout, 2) if from_pairs else None
    first = math.inf if pairs is None else pairs  # what is needed before the first step, at most
    forecast = min(forecast, first)
    if until is not None:
        forecast = max(forecast, min(until, first))
    return forecast if floor is None else max(forecast, floor)


def _worth(tokens_read: int, n_tokens: int) -> float:
    """How many tokens teach as much when each is read once, as so many read from a text of `n_tokens`."""
    again = max(tokens_read / n_tokens - 1, 0.0)
    return min(tokens_read, n_tokens) + n_tokens * FADING * -math.expm1(-again / FADING)


def _counted_bytes(text: Text) -> Ints:
    """How many bytes each token of the text stands for where predicting it counts, else 0."""
    size: Ints = text.token_bytes[text.tokens].astype(np.int64)
    return size if text.mask is None else size * text.mask


def _table_bits(known: Ints, new: Ints, size: Ints, heldout: Text, order: int) -> float | None:
    """Bits per byte of `new`, of so many bytes each, by a table of so many tokens in a row; None if no byte counts."""
    size = size[order - 1 :]
    if not size.any():
        return None
    bits = -np.log2(ngram_probabilities(known, new, len(heldout.token_bytes), order))
    return float(bits[size > 0].sum() / size.sum())


def ngram_probabilities(known: Ints, new: Ints, vocab: int, longest: int = _ORDER) -> npt.NDArray[np.float64]:
    """The probability of each of new[longest - 1:], given those before it, by interpolated Kneser-Ney over `known`.

    Grams are up to `longest` tokens long. Both hold token ids below `vocab`. The probabilities of all tokens in one
    place sum to 1.
    """
    probabilities = np.full(len(new) - longest + 1, 1 / vocab)
    for order in range(1, longest + 1):
        asked = _grams(new, order, vocab)[longest - order :]
        grams = _grams(known, order, vocab)
        if order < longest:  # shorter grams count by how many different tokens they follow
            wider = np.unique(_grams(known, order + 1, vocab))
            grams = wider % vocab**order
        seen, counts = np.unique(grams, return_counts=True)
        contexts, first = np.unique(seen // vocab, return_index=True)
        totals, kinds = np.add.reduceat(counts, first), np.diff(np.append(first, len(seen)))
        context, is_known = _find(contexts, asked // vocab)
        place, is_seen = _find(seen, asked)
        kept = np.where(is_seen, np.maximum(counts[place] - DISCOUNT, 0), 0)
        mixed = (kept + DISCOUNT * kinds[context] * probabilities) / totals[context]
        probabilities = np.where(is_known, mixed, probabilities)
    return probabilities


def _grams(tokens: Ints, order: int, vocab: int) -> Ints:
    """Every run of so many tokens as one number."""
    assert vocab**order < 1 << 63
    grams = np.zeros(len(tokens) - order + 1, np.int64)
    for i in range(order):
        grams = grams * vocab + tokens[i : len(tokens) - order + 1 + i]
    return grams


def _find(sorted_: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Where each of `wanted` stands in a sorted array, and whether it does."""
    place = np.minimum(np.searchsorted(sorted_, wanted), len(sorted_) - 1)
    return place, sorted_[place] == wanted


def _spread(tokens: npt.NDArray[np.integer[Any]], n: int) -> Ints:
    """About n of the tokens, in pieces from all over the text."""
    if len(tokens) <= n:
        return np.asarray(tokens, np.int64)
    starts = np.linspace(0, len(tokens) - _PIECE, max(n // _PIECE, 1)).astype(int)
    return np.concatenate([tokens[start : start + _PIECE] for start in starts]).astype(np.int64)
