"""Bigrams: how one word follows another in the text, in the weights alone, and in the model with its context.

    frequency    count(a b) / count(a) in the indexed text
    weights      unembed(norm(embed(a))): the direct path from embedding to unembedding, with no position, attention or
                 MLP. The scale of the norm is that of the embedding itself, not that of the residual in a prompt; a
                 model without blocks would answer exactly this (Elhage et al., 2021).
    probability  of b after a prompt that ends with a

The weights' answer is a logit, reported in three ways: above the vocabulary's mean and with its rank, which says
whether it is high; as the probability by the softmax of all these logits, which is the model's own only where there are
no blocks; and as `lift`: the logit less its average over all first words. Nearly all that the weights alone say of a
word they say of it after any word (19 of 20 parts of the variance in tales and in SmolLM2, where rare words stand
high); the lift is what this first word adds. A model whose unembedding is its embedding (tied) scores two words nearly
alike in either order: there, a high lift means words that are alike, and what follows what is up to the blocks.

A word may take several tokens. The frequency counts all tokens of both words. Weights relate single tokens only: the
last one of the first word and the first one of the second. The probability is that of the whole second word: the
product along its tokens, each read after those before it (`chain`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nextword.base.types import Json, TokenText
from nextword.corpus.index import Index
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import EmptyPrompt
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.recording import check_prompt, check_token, log_probability


@dataclass(frozen=True)
class Bigram:
    """How a second word follows a first: in the text, in the weights alone and in the model.

    Args:
        ids: Token ids of the second word.
        count: The number of times that the text has both words; None without an index.
        of: The number of times that the text has the first word; None without an index.
        logit: Of the second word in the weights alone, above the vocabulary's mean.
        rank: Of that logit among all, 1 the highest.
        weights: Probability by the softmax of these logits.
        lift: That logit less the one after the average first word.
        lift_rank: Of the lift among all, 1 the highest.
        chain: Probability of each token of the second word, in the model.
    """

    ids: tuple[int, ...]
    count: int | None
    of: int | None
    logit: float
    rank: int
    weights: float
    lift: float
    lift_rank: int
    chain: tuple[float, ...]

    @property
    def frequency(self) -> float | None:
        """The fraction of the first word's places in the text that go on with the second; None where there are none."""
        return self.count / self.of if self.count is not None and self.of else None

    @property
    def probability(self) -> float:
        """Probability of the whole word, in the model's context."""
        return math.prod(self.chain)

    def to_json(self, decode_token: TokenText) -> Json:
        """As JSON values."""
        return {
            "ids": list(self.ids),
            "tokens": [decode_token(id) for id in self.ids],
            "count": self.count,
            "of": self.of,
            "frequency": self.frequency,
            "logit": self.logit,
            "rank": self.rank,
            "weights": self.weights,
            "lift": self.lift,
            "lift_rank": self.lift_rank,
            "probability": self.probability,
            "chain": list(self.chain),
        }


@dataclass(frozen=True)
class TopBigrams:
    """The second words that lead by each number, highest first.

    Args:
        frequency: By their frequency in the text; None without an index.
        weights: By their logit in the weights alone.
        lift: By their lift.
        probability: By their probability in the model.
    """

    frequency: Sequence[Bigram] | None
    weights: Sequence[Bigram]
    lift: Sequence[Bigram]
    probability: Sequence[Bigram]


def word_ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word as it stands within a text: before a letter or digit there is a space. Raises EmptyPrompt.

    >>> import nextword
    >>> tokenizer = nextword.open().tokenizer
    >>> [tokenizer.token_text(id) for word in ("pie", ".") for id in word_ids(tokenizer, word)]
    [' pie', '.']
    """
    if not word:
        raise EmptyPrompt("There is no word to look up: give one of at least one character.")
    bare = tokenizer.encode(word)
    led = tokenizer.token_bytes(bare[0]).startswith(b" ")  # some encodings put a space before every text
    return bare if led or not word[0].isalnum() else tokenizer.encode(f" {word}")


@torch.no_grad()
def weight_logits(model: Transformer, token: int) -> Tensor:
    """Logits of the direct path from a token's embedding to the unembedding [vocab]. Raises UnknownToken."""
    check_token(token, model.architecture)
    logits: Tensor = model.logits(model.norm(model.embed.weight[token]))
    return logits


@torch.no_grad()
def lifts(model: Transformer, token: int) -> Tensor:
    """`weight_logits` less their average over all first tokens, above the vocabulary's mean [vocab], float64.

    Raises UnknownToken.
    """
    embedded = model.embed.weight
    # Unembedding is linear: the average of all logits is what the average of all normed embeddings says.
    sums = [model.norm(rows).double().sum(0) for rows in torch.split(embedded, 4096)]
    average = torch.stack(sums).sum(0) / len(embedded)
    lifted = (weight_logits(model, token) - model.logits(average.to(embedded.dtype))).double()
    return lifted - lifted.mean()


def bigrams(
    model: Transformer,
    first: Sequence[int],
    seconds: Sequence[Sequence[int]],
    prompt: Sequence[int],
    index: Index | None = None,
) -> list[Bigram]:
    """How each of several words follows a word that ends a prompt.

    Args:
        model: The reference model.
        first: Token ids of the first word.
        seconds: Token ids of each second word.
        prompt: Token ids that end with those of the first word.
        index: Of the text that is counted; None: nothing is counted.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: Prompt and second word are longer than the model's context.
        UnknownToken: An id is outside the vocabulary.
    """
    after = _After(model, first, prompt, index)
    return [after.bigram(second) for second in seconds]


def top_bigrams(
    model: Transformer,
    first: Sequence[int],
    prompt: Sequence[int],
    index: Index | None = None,
    *,
    count: int = 5,
    n_tokens: int | None = None,
) -> TopBigrams:
    """The tokens that lead by each number after a word that ends a prompt; ties go to the lower id.

    Args:
        model: The reference model.
        first: Token ids of the first word.
        prompt: Token ids that end with those of the first word.
        index: Of the text that is counted; None: nothing is counted.
        count: The number of tokens for each number.
        n_tokens: The number of ids that stand for tokens, from 0 on; None: all of the vocabulary.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: Prompt and second word are longer than the model's context.
        UnknownToken: An id is outside the vocabulary.
    """
    after = _After(model, first, prompt, index)
    orders = [after.logits, after.lift, after.log_p]
    best = [order[:n_tokens].argsort(descending=True, stable=True)[:count].tolist() for order in orders]
    columns = [[after.bigram([id]) for id in ids] for ids in best]
    if index is None:
        return TopBigrams(None, *columns)
    following = index.next_counts(first)
    often = (-following.counts).argsort(kind="stable")[:count]
    known = [int(following.ids[at]) for at in often if following.ids[at] < model.architecture.vocab]
    return TopBigrams([after.bigram([id]) for id in known], *columns)


class _After:
    """The numbers of every token after the word that ends a prompt.

    Attributes:
        logits: In the weights alone [vocab].
        lift: Of these logits [vocab], float64.
        log_p: Log probabilities in the model [vocab], float64.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, first: Sequence[int], prompt: Sequence[int], index: Index | None) -> None:
        self._model, self._first, self._prompt, self._index = model, first, prompt, index
        self.logits = weight_logits(model, first[-1])
        self.lift = lifts(model, first[-1])
        self.log_p = _log_probabilities(model, prompt)[-1]
        self._of = None if index is None else index.count(first)

    @torch.no_grad()
    def bigram(self, second: Sequence[int]) -> Bigram:
        """How a second word follows. Raises ContextOverflow or UnknownToken."""
        for id in second:
            check_token(id, self._model.architecture)
        logits = self.logits.double()
        chain = [self.log_p[second[0]]]
        if len(second) > 1:
            rows = _log_probabilities(self._model, [*self._prompt, *second[:-1]])[len(self._prompt) :]
            chain += [row[id] for row, id in zip(rows, second[1:], strict=True)]
        return Bigram(
            tuple(second),
            None if self._index is None else self._index.count([*self._first, *second]),
            self._of,
            float((logits - logits.mean())[second[0]]),
            _rank(logits, second[0]),
            float(log_probability(logits, second[0]).exp()),
            float(self.lift[second[0]]),
            _rank(self.lift, second[0]),
            tuple(float(each.exp()) for each in chain),
        )


def _rank(values: Tensor, id: int) -> int:
    """The rank of an id by its value, 1 for the highest."""
    return int((values > values[id]).sum()) + 1


def _log_probabilities(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Log probability of every token after each of `ids` [len(ids), vocab], float64."""
    check_prompt(ids, model.architecture)
    logits = model(torch.tensor([list(ids)], device=model.embed.weight.device))[0]
    log_p: Tensor = logits.double().log_softmax(-1)
    return log_p
