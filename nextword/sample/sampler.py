"""From logits to one token, with an account of everything that was changed on the way.

    logits -> penalties -> logit bias -> temperature -> top-k -> top-p -> min-p -> typical -> draw

The first filter removes ids that stand for no token: some models pad their vocabulary. Penalties and bias shift
logits; each filter removes tokens from those that the filter before it kept, renormalized.
`distribute` keeps the raw probabilities beside the final ones and notes for every removed token which filter
removed it; `sample_token` draws. The order and the meaning of every setting are those of transformers'
`generate`, except presence and frequency penalties, which are OpenAI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nextword.errors import ModelError, SettingError
from nextword.sample.settings import Sampling

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]
_LEAST = 5e-324  # the least float above 0: a probability that underflowed has a logarithm all the same
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Filter(NamedTuple):
    """A filter: `keep` maps scores [n], not divided by the temperature, to a mask of those kept, bool [n]."""

    name: str
    keep: Callable[[Scores], Mask]


@lru_cache(maxsize=256)
def filters_of(sampling: Sampling) -> tuple[Filter, ...]:
    """The filters that are switched on, in their order.

    top-k and min-p need no exponentials; after one of them mostly a few tokens of thousands are left.
    """
    if sampling.temperature == 0:
        return (Filter("greedy", _most_probable),)
    s, t = sampling, sampling.temperature
    table = [
        ("top_k", s.top_k > 0, partial(_top_k, k=s.top_k)),
        ("top_p", s.top_p < 1, partial(_top_p, mass=s.top_p, temperature=t)),
        ("min_p", s.min_p > 0, partial(_min_p, fraction=s.min_p, temperature=t)),
        ("typical_p", s.typical_p < 1, partial(_typical, mass=s.typical_p, temperature=t)),
    ]
    return tuple(Filter(name, keep) for name, on, keep in table if on)


@dataclass(frozen=True)
class Removed:
    """The tokens that one filter removed.

    Args:
        filter: Name of the filter.
        tokens: Number of tokens removed.
        mass: Probability of these tokens together, as the model gave it.
    """

    filter: str
    tokens: int
    mass: float


class TokenFacts(NamedTuple):
    """One token in a distribution, as predictions, receipts and pages show it.

    Attributes:
        logit: As the model gave it.
        probability: As the model gave it.
        filtered_probability: Probability that the token is drawn, 0 if a filter removed it.
        removed_by: The filter that removed the token, None if it was kept.
        rank: 1 for the model's most probable token.
    """

    logit: float
    probability: float
    filtered_probability: float
    removed_by: str | None
    rank: int


@dataclass(eq=False)
class Distribution:
    """The probability of every token before and after the filters, and the filter that removed each token.

    Args:
        logits: As the model gave them, float32 [vocab].
        log_total: Logarithm of the sum of the logits' exponentials, to 2e-7. The exponentials are computed in float32:
            in float64 they alone would take longer than the rest of a draw.
        filter_names: The names of the filters that acted, in their order.
        survivors: For each of these filters the ids that it kept, int [n], ascending.
        kept_probabilities: Probabilities, float64 [n], of the ids that can be drawn: those that the last filter kept,
            or all ids if no filter acted.
    """

    logits: npt.NDArray[np.float32]
    log_total: float
    filter_names: list[str]
    survivors: list[npt.NDArray[np.intp]]
    kept_probabilities: Floats

    @property
    def kept(self) -> npt.NDArray[np.intp] | slice:
        """The ids that can be drawn, in their order; a slice of all of them if no filter acted."""
        return self.survivors[-1] if self.survivors else slice(None)

    @cached_property
    def probability(self) -> Floats:
        """The model's own probabilities, float64 [vocab]. Made on first use, like `filtered`: few draws need it."""
        return _softmax(self.logits)

    @cached_property
    def filtered(self) -> Floats:
        """The probabilities that the token is drawn from, float64 [vocab]; 0 for removed tokens."""
        probabilities = np.zeros(len(self.logits))
        probabilities[self.kept] = self.kept_probabilities
        return probabilities

    @cached_property
    def removed_by(self) -> npt.NDArray[np.int8]:
        """0 for kept tokens, else the number of the filter that removed the token, from 1; int8 [vocab]."""
        numbers = np.zeros(len(self.logits), dtype=np.int8)
        for number in range(len(self.survivors), 0, -1):  # backwards: the earliest filter that removed a token wins
            gone = np.ones(len(numbers), dtype=bool)
            gone[self.survivors[number - 1]] = False
            numbers[gone] = number
        return numbers

    @cached_property
    def removed(self) -> tuple[Removed, ...]:
        """The tokens that each filter removed, in the filters' order."""
        gone = [self.removed_by == number for number in range(1, len(self.filter_names) + 1)]
        return tuple(
            Removed(name, int(np.count_nonzero(each)), float(self.probability[each].sum()))
            for name, each in zip(self.filter_names, gone, strict=True)
        )

    def remover(self, id: int) -> str | None:
        """The name of the filter that removed a token, None if it was kept."""
        number = int(self.removed_by[id])
        return self.filter_names[number - 1] if number else None

    def facts(self, id: int) -> TokenFacts:
        """Logit, probabilities, filter and rank of one token."""
        return TokenFacts(
            logit=float(self.logits[id]),
            probability=float(self.probability[id]),
            filtered_probability=float(self.filtered[id]),
            removed_by=self.remover(id),
            rank=int(np.count_nonzero(self.logits > self.logits[id])) + 1,
        )

    def top(self, count: int, n_tokens: int) -> list[int]:
        """The ids of the `count` largest logits, ties by id, among the ids below `n_tokens` (others are no tokens)."""
        ids: list[int] = np.argsort(-self.logits[:n_tokens], kind="stable")[:count].tolist()
        return ids


class SampledToken(NamedTuple):
    """One drawn token and the numbers that decided the draw.

    Attributes:
        id: The token.
        position: Its position in the text, from 0, the prompt included.
        logit: As the model gave it.
        probability: As the model gave it.
        filtered_probability: Probability of the token in the distribution that it was drawn from.
        rank: 1 for the model's most probable token.
        uniform: The random number in [0, 1) that decided: it falls on this token when the filtered probabilities are
            laid end to end in the order of ids.
    """

    id: int
    position: int
    logit: float
    probability: float
    filtered_probability: float
    rank: int
    uniform: float

    @property
    def surprisal(self) -> float:
        """-log2 of the token's probability in the model's own distribution, in bits."""
        return -math.log2(max(self.probability, _LEAST))


def clamped_log(probability: float) -> float:
    """A probability's natural logarithm; of 0, that of the smallest positive float.

    >>> clamped_log(1.0), round(clamped_log(0.0), 1)
    (0.0, -744.4)
    """
    return math.log(max(probability, _LEAST))


def distribute(
    logits: npt.NDArray[np.float32],
    sampling: Sampling,
    text: Sequence[int] = (),
    n_generated: int = 0,
    n_tokens: int | None = None,
    allowed: Mask | None = None,
) -> Distribution:
    """Apply penalties, bias, temperature and filters to the logits of the next token.

    Args:
        logits: As the model gave them, float32 [vocab].
        sampling: The settings.
        text: Ids of the text so far, for the penalties.
        n_generated: Number of last tokens of `text` that were generated, for presence and frequency penalties.
        n_tokens: The ids from here on stand for no token and are removed by the filter "no_token"; None keeps all.
        allowed: The tokens that a grammar allows, bool [vocab]; the filter "grammar" removes the others. None for no
            grammar.

    Raises:
        ModelError: The logits are not finite numbers.
        SettingError: No token is left.

    >>> logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    >>> found = distribute(logits, Sampling(top_k=2))
    >>> found.filtered.round(3).tolist(), found.remover(3)
    ([0.667, 0.333, 0.0, 0.0], 'top_k')
    """
    largest, least = float(logits.max()), float(logits.min())
    if not (math.isfinite(largest) and math.isfinite(least)):
        raise ModelError("The model's logits are not finite numbers; its weights are damaged or overflow.")
    n_tokens = len(logits) if n_tokens is None else n_tokens
    scores = _shifted(logits, sampling, text, n_generated)
    filters = filters_of(sampling)
    if n_tokens < len(scores) or allowed is not None:
        forbidden = np.arange(len(scores)) >= n_tokens
        scores = np.where(forbidden if allowed is None else forbidden | ~allowed, -np.inf, scores)
    if (sampling.logit_bias or allowed is not None) and not np.isfinite(scores.max()):
        raise SettingError("The logit bias forbids every token that could come next; leave at least one.")
    if allowed is not None:
        filters = (Filter("grammar", lambda scores: allowed[: len(scores)]), *filters)
    if n_tokens < len(scores):
        filters = (Filter("no_token", lambda scores: np.arange(len(scores)) < n_tokens), *filters)
    left: list[npt.NDArray[np.intp]] = []
    for each in filters:
        (kept,) = each.keep(scores).nonzero()
        left.append(left[-1][kept] if left else kept)
        scores = scores[kept]
    kept_probabilities = _softmax(scores, sampling.temperature)
    return Distribution(
        logits, _log_total(logits, largest, least), [each.name for each in filters], left, kept_probabilities
    )


def sample_token(distribution: Distribution, uniform: float, position: int) -> SampledToken:
    """Draw a token by inverse transform sampling.

    Args:
        distribution: What to draw from.
        uniform: A random number in [0, 1); it falls on the token when the filtered probabilities are laid end to end in
            the order of ids.
        position: Position of the token in the text, from 0; it is only noted.
    """
    ends = distribution.kept_probabilities.cumsum()
    at = int(ends.searchsorted(uniform * ends[-1], side="right"))  # a token of probability 0 ends where it begins
    id = int(distribution.survivors[-1][at]) if distribution.survivors else at
    logit = distribution.logits[id]
    return SampledToken(
        id=id,
        position=position,
        logit=float(logit),
        probability=math.exp(float(logit) - distribution.log_total),
        filtered_probability=float(distribution.kept_probabilities[at]),
        rank=int(np.count_nonzero(distribution.logits > logit)) + 1,
        uniform=uniform,
    )


def _shifted(logits: Scores, s: Sampling, text: Sequence[int], n_generated: int) -> Scores:
    """The logits after penalties and bias, float64; the logits themselves if nothing shifts them."""
    if s.repetition_penalty == 1.0 and not (s.presence_penalty or s.frequency_penalty or s.logit_bias):
        return logits
    scores, ids = logits.astype(np.float64), np.asarray(text, np.int64)
    assert 0 <= n_generated <= len(ids)
    if s.repetition_penalty != 1.0:
        held = scores[ids]  # a token that stands in the text twice is set twice, to the same value
        lower_or_higher = np.minimum if s.repetition_penalty > 1 else np.maximum  # divided if positive, else multiplied
        scores[ids] = lower_or_higher(held / s.repetition_penalty, held * s.repetition_penalty)
    if s.presence_penalty or s.frequency_penalty:
        seen, times = np.unique(ids[len(ids) - n_generated :], return_counts=True)
        scores[seen] -= s.presence_penalty + s.frequency_penalty * times
    for id, bias in s.logit_bias.items():
        if not 0 <= id < len(scores):
            raise SettingError(f"logit_bias names token {id}, but the ids go from 0 to {len(scores) - 1}.")
        scores[id] += bias
    return scores


def _most_probable(scores: Scores) -> Mask:
    """The first of the largest scores."""
    keep = np.zeros(len(scores), dtype=bool)
    keep[scores.argmax()] = True
    return keep


def _top_k(scores: Scores, k: int) -> Mask:
    """The k largest scores, and those that tie with the last of them."""
    return scores >= np.partition(scores, -k)[-k] if k < len(scores) else np.ones(len(scores), dtype=bool)


def _min_p(scores: Scores, fraction: float, temperature: float) -> Mask:
    """The tokens with at least this fraction of the largest probability."""
    keep: Mask = scores >= scores.max() + np.float64(temperature * math.log(fraction))
    return keep


def _top_p(scores: Scores, mass: float, temperature: float) -> Mask:
    """The nucleus: the most probable tokens that together hold `mass`.

    Tokens below (1 - mass) / n together hold less than 1 - mass, so none of them is in it, and they need no sorting.
    """
    p = _softmax(scores, temperature)
    few = np.flatnonzero(p >= (1 - mass) / len(p))
    return _until(few[np.argsort(-p[few], kind="stable")], p, mass)


def _typical(scores: Scores, mass: float, temperature: float) -> Mask:
    """The tokens whose surprisal is nearest the entropy and that together hold `mass`."""
    p = _softmax(scores, temperature)
    surprisal = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return _until(np.argsort(np.abs(surprisal - (p * surprisal).sum()), kind="stable"), p, mass)


def _until(order: npt.NDArray[np.intp], p: Floats, mass: float) -> Mask:
    """The first tokens in `order` that together hold `mass`, at least one."""
    before = np.cumsum(p[order]) - p[order]
    keep = np.zeros(len(p), dtype=bool)
    keep[order[: max(1, int(np.searchsorted(before, mass, side="left")))]] = True
    return keep


def _softmax(scores: Scores, temperature: float = 1.0) -> Floats:
    """The softmax of scores / temperature, float64; at temperature 0, where one token is left, nothing is divided."""
    probabilities = scores.astype(np.float64)
    probabilities -= probabilities.max()
    if temperature not in (0, 1):
        probabilities /= temperature
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum()
    return probabilities


def _log_total(logits: npt.NDArray[np.float32], largest: float, least: float) -> float:
    """The logarithm of the sum of the logits' exponentials, to 2e-7."""
    numbers = logits if largest - least <= _LARGEST_FLOAT32 else logits.astype(np.float64)
    probabilities: Scores = numbers - numbers.dtype.type(largest)
    np.exp(probabilities, out=probabilities)
    return largest + math.log(probabilities.sum(dtype=np.float64))
