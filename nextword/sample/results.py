"""The results of a model: the probability of every next token, and of a given text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextword.encode.tokenizer import Tokenizer, TokenSpan
from nextword.errors import UnknownToken
from nextword.sample.sampler import Distribution


@dataclass(frozen=True)
class NextToken:
    """One row of a prediction.

    Args:
        id: The token.
        token: Its text.
        logit: As the model gave it.
        probability: As the model gave it.
        filtered_probability: Probability that the token is drawn, 0 if a filter removed it.
        removed_by: The filter that removed the token, None if it was kept.
    """

    id: int
    token: str
    logit: float
    probability: float
    filtered_probability: float
    removed_by: str | None


@dataclass(frozen=True, repr=False)
class Prediction:
    """The probability of every token after a prompt.

    Args:
        ids: The prompt's token ids, the beginning token included where the model has one.
        distribution: The model's own probabilities and what sampling made of them.
        tokenizer: The model's.
        computed_by: The engine that computed the logits, in words. Engines agree up to rounding only: compare
            predictions of one engine.
    """

    ids: Sequence[int]
    distribution: Distribution
    tokenizer: Tokenizer
    computed_by: str

    def __repr__(self) -> str:
        rows = [f"  {row.token!r:<16} {row.probability:8.2%}" for row in self.top(5)]
        return "\n".join([f"<Prediction after {len(self.ids)} tokens, by {self.computed_by}>", *rows])

    @property
    def removed_mass(self) -> float:
        """The model's probability of all tokens that the filters removed together."""
        return sum((removed.mass for removed in self.distribution.removed), 0.0)

    def top(self, count: int = 10) -> list[NextToken]:
        """The `count` most probable tokens by the model's own probabilities, ties by id."""
        return [self.row(id) for id in self.distribution.top(count, self.tokenizer.vocab_size)]

    def row(self, id: int) -> NextToken:
        """The row of one token."""
        if not 0 <= id < len(self.distribution.logits):
            raise UnknownToken(f"There is no token {id}: ids go from 0 to {len(self.distribution.logits) - 1}.")
        facts = self.distribution.facts(id)
        return NextToken(
            id=id,
            token=self.tokenizer.token_text(id),
            logit=facts.logit,
            probability=facts.probability,
            filtered_probability=facts.filtered_probability,
            removed_by=facts.removed_by,
        )


@dataclass(frozen=True, repr=False)
class Score:
    """The log-probability of each token of a text.

    Args:
        pieces: Its tokens with their places in the text; ids alone have none.
        log_probabilities: Natural logarithms, float64, of the last `len(log_probabilities)` pieces: of all but the
            first where the model has no token that begins a text.
        tokenizer: The model's.
    """

    pieces: Sequence[TokenSpan]
    log_probabilities: npt.NDArray[np.float64]
    tokenizer: Tokenizer

    def __repr__(self) -> str:
        return f"<Score of {len(self.pieces)} tokens: {self.bits_per_byte:.4f} bits per byte>"

    @property
    def perplexity(self) -> float:
        """exp of the mean surprisal of a token in nats; nan where nothing could be predicted."""
        return math.exp(-self.log_probabilities.mean()) if len(self.log_probabilities) else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Surprisal in bits for each byte (UTF-8) of the predicted tokens; nan where nothing could be predicted."""
        ids = [piece.id for piece in self.pieces]
        given = ids[: len(ids) - len(self.log_probabilities)]
        size = len(self.tokenizer.decode_bytes(ids)) - len(self.tokenizer.decode_bytes(given))
        return float(-self.log_probabilities.sum() / math.log(2) / size) if size else math.nan
