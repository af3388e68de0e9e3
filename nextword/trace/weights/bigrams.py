"""Pairs: how one word follows another in the text, in the weights alone, and in the model with its context.

    frequency    count(a b) / count(a) in the indexed text
    weights      unembed(norm(embed(a))): what embedding and unembedding alone say, with no position, attention or MLP.
                 The scale of the norm is that of the embedding itself, not that of the residual in a prompt; a model
                 without blocks would answer exactly this (Elhage et al., 2021).
    probability  of b after a prompt that ends with a

The weights' answer is a logit, told three ways: above the vocabulary's mean and with its rank, which says whether it
is high; as the probability that all these logits mean, which is the model's own only where there are no blocks; and as
`lift`: how far that is above the same averaged over all first words. Nearly all that the weights alone say of a word
they say of it after any word (19 of 20 parts of the variance in tales and in SmolLM2, where rare words stand high); the
lift is what this first word has to do with it. A model whose unembedding is its embedding (tied) scores two words
nearly alike in either order: there, a high lift means words that are alike, and what follows what is up to the blocks.

A word may take several tokens. The frequency counts all tokens of both words. Weights know pairs of tokens only, so
theirs is the pair of the last token of the first word and the first token of the second. The probability is that of
the whole second word: the product along its tokens, each read after those before it (`chain`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nextword.base.types import TokenText
from nextword.corpus.index import Index
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import EmptyPrompt
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.recording import check_prompt, check_token


@dataclass(frozen=True)
class Bigram:
    """The three numbers of a second word of tokens `ids`, and what they are made of.

    count, of: how often the text has both words, and the first; None without an index. frequency: count / of, None
    if the text lacks the first word too. logit: in the weights alone, above the vocabulary's mean; rank: its place
    among all logits, 1 the highest. weights: the probability that these logits mean. lift: how far that logit is above
    the one after the average first word; lift_rank: its place. chain: the probability of each token of the word.
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
        """The share of the first word's places in the text that go on with the second."""
        return self.count / self.of if self.count is not None and self.of else None

    @property
    def probability(self) -> float:
        """Of the whole word, in the model's context."""
        return math.prod(self.chain)

    def to_json(self, decode_token: TokenText) -> dict[str, Any]:
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
    """What leads by each number after a word, highest first; `frequency` is None without a text."""

    frequency: Sequence[Bigram] | None
    weights: Sequence[Bigram]
    lift: Sequence[Bigram]
    probability: Sequence[Bigram]


def word_ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word as it stands within a text: a letter or digit is led by a space. Raises EmptyPrompt."""
    if not word:
        raise EmptyPrompt("There is no word to look up: give one of at least one character.")
    bare = tokenizer.encode(word)
    led = tokenizer.token_bytes(bare[0]).startswith(b" ")  # some encodings put a space before every text
    return bare if led or not word[0].isalnum() else tokenizer.encode(f" {word}")


@torch.no_grad()
def weight_logits(model: Transformer, token: int) -> Tensor:
    """What embedding and unembedding alone say after a token: logits [vocab]. Raises UnknownToken."""
    check_token(token, model.architecture)
    logits: Tensor = model.logits(model.norm(model.embed.weight[token]))
    return logits


@torch.no_grad()
def lifts(model: Transformer, token: int) -> Tensor:
    """`weight_logits` less their average over all first tokens, above the mean: [vocab]. Raises UnknownToken."""
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
    """The numbers of each of `seconds` after the word `first`, which ends the `prompt`.

    Raises EmptyPrompt, ContextOverflow or UnknownToken.
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
    """The `count` tokens, of the first `n_tokens` ids, that lead by each number; ties go to the lower id.

    Raises EmptyPrompt, ContextOverflow or UnknownToken.
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
    """All that can follow the word `first` at the end of a prompt: what every pair of it is read off.

    logits: in the weights alone; lift; log_p: in the model. Each [vocab].
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
        """The numbers of a second word. Raises ContextOverflow or UnknownToken."""
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
            float(logits.log_softmax(-1)[second[0]].exp()),
            float(self.lift[second[0]]),
            _rank(self.lift, second[0]),
            tuple(float(each.exp()) for each in chain),
        )


def _rank(values: Tensor, id: int) -> int:
    return int((values > values[id]).sum()) + 1


def _log_probabilities(model: Transformer, ids: Sequence[int]) -> Tensor:
    """log p of every token after each of `ids` [len(ids), vocab], float64."""
    check_prompt(ids, model.architecture)
    logits = model(torch.tensor([list(ids)], device=model.embed.weight.device))[0]
    log_p: Tensor = logits.double().log_softmax(-1)
    return log_p
