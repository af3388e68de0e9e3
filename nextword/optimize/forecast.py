"""The forecast: held-out bits per byte of a model that is not trained yet, from a table of trigrams.

A model that has read n tokens predicts about as well as a trigram table made of n tokens of the same text; somewhat
worse while n is small, better and better as n grows. The table (interpolated Kneser-Ney, Kneser & Ney, 1995) takes a
second to make. The ratio of model to table, a power of n, was fitted to runs of three texts (see the log); on the
natural texts of those runs the forecast is within about 6 % of the result. A language with rules that reach further
than three tokens is learned better than forecast. Repeated tokens are worth less with each epoch (Muennighoff et al.,
2023), and after about `FADING` epochs hardly anything; overfitting is not forecast. A model that starts from bigrams
(`nextword.optimize.bigrams`) is never worse than a bigram table of the whole text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.optimize.batches import Text
from nextword.optimize.recipe import Init

Ints = npt.NDArray[np.int64]

DISCOUNT = 0.75  # occurrences: subtracted from each count (Kneser-Ney)
_ORDER = 3  # tokens: of a gram
_COUNTED, _SCORED, _PIECE = 1_000_000, 60_000, 256  # tokens: in the table, scored, and of a sampled piece of text
FADING = 15.4  # epochs after the first: their decay constant R* (Muennighoff et al., 2023), see `_unique_equivalent`
_FACTOR, _AT, _POWER = 1.04, 250_000, -0.055  # model / table = factor * (tokens read / at) ** power


def forecast_bits_per_byte(
    text: Text,
    heldout: Text,
    tokens_read: int,
    *,
    init: Init = "random",
    until: float | None = None,
    floor: float | None = None,
) -> float | None:
    """Forecast the bits per byte of a model on held-out text.

    Args:
        text: That the model will read.
        heldout: That the model will be measured on.
        tokens_read: By all steps, repeated ones included.
        init: What the weights start from: "random" numbers or the text's "bigrams".
        until: Bits per byte at which the run ends early; None: it does not.
        floor: Bits per byte that no model can get below, as far as is known.

    Returns:
        Bits per byte; None for a held-out text with nothing that counts after its first two tokens.
    """
    new, size = _spread(heldout.tokens, _SCORED), _spread(_counted_bytes(heldout), _SCORED)
    table = _table_bits(_spread(text.tokens, min(tokens_read, _COUNTED)), new, size, heldout, _ORDER)
    if table is None:
        return None
    forecast = table * _FACTOR * math.pow(_unique_equivalent(tokens_read, len(text.tokens)) / _AT, _POWER)
    bigrams = _table_bits(_spread(text.tokens, _COUNTED), new, size, heldout, 2) if init == "bigrams" else None
    first = math.inf if bigrams is None else bigrams  # bits per byte before the first step, at most
    forecast = min(forecast, first)
    if until is not None:
        forecast = max(forecast, min(until, first))
    return forecast if floor is None else max(forecast, floor)


def _unique_equivalent(tokens_read: int, n_tokens: int) -> float:
    """The number of tokens, each read once, that are worth as much as `tokens_read` tokens in epochs over `n_tokens`.

    D' of Muennighoff et al., 2023.
    """
    again = max(tokens_read / n_tokens - 1, 0.0)
    return min(tokens_read, n_tokens) + n_tokens * FADING * -math.expm1(-again / FADING)


def _counted_bytes(text: Text) -> Ints:
    """The number of bytes that each token of the text stands for, 0 where predicting it does not count."""
    size: Ints = text.token_bytes[text.tokens].astype(np.int64)
    return size if text.mask is None else size * text.mask


def _table_bits(known: Ints, new: Ints, size: Ints, heldout: Text, order: int) -> float | None:
    """Bits per byte of the tokens `new`, of `size` bytes each, by a table of grams up to `order` tokens long.

    None if no byte counts.
    """
    size = size[order - 1 :]
    if not size.any():
        return None
    bits = -np.log2(ngram_probabilities(known, new, len(heldout.token_bytes), order))
    return float(bits[size > 0].sum() / size.sum())


def ngram_probabilities(known: Ints, new: Ints, vocab: int, longest: int = _ORDER) -> npt.NDArray[np.float64]:
    """The probability of each of new[longest - 1:], given the tokens before it, by interpolated Kneser-Ney.

    The probabilities of all tokens in one place sum to 1.

    Args:
        known: Ids below `vocab` that the table is counted from.
        new: Ids below `vocab` that are scored.
        vocab: Number of tokens.
        longest: Tokens of the longest grams.
    """
    probabilities = np.full(len(new) - longest + 1, 1 / vocab)
    for order in range(1, longest + 1):
        asked = _grams(new, order, vocab)[longest - order :]
        grams = _grams(known, order, vocab)
        if order < longest:  # of a shorter gram, the number of different tokens that it follows is counted
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
    """Every gram of `order` tokens as one number, int64 [len(tokens) - order + 1]."""
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
