"""What the indexed text says about a model's words: copied from where, ruled by what, seen when.

Each generated token is sorted by what precedes it, never by what follows (why this word, not which passage it became
part of). With `text_match` the number of tokens, up to and with this one, that stand in the text as they do here,
and `prompt_match` the same for an earlier place in the prompt, it is

    "prompt"     copied from the prompt: prompt_match is at least PROMPT, and longer than text_match
    "verbatim"   the continuation of a passage of the text: text_match is at least VERBATIM
    "rule"       what the text's n-grams say: of the longest context that the text has at least SUPPORT times, at
                 least a SHARE goes on with this token
    "none"       none of these

and the first of them that holds. These are statements about texts, not about the model: that a passage stands in the
text does not prove that it was recalled, and a rule of the text may have been followed for another reason. The end
of a document is not a token of it, so a token that ends the generation has nothing to match: leave it off.

`frequencies` counts what followed each end of a context, and `exposures` tells at which steps and rows of the
training a passage was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nextword.corpus.index import Index, verbatim_spans
from nextword.optimize.order import Exposure, Order
from nextword.trace.text.indexed import IndexedText, Place

Kind = Literal["prompt", "verbatim", "rule", "none"]

VERBATIM = 8
"""Tokens. Of held-out tales, 42 million tokens of others hold 43 % of the 4-grams, 7 % of the 6-grams, 1.5 % of the
8-grams, 0.8 % of the 10-grams and 0.7 % of the 12-grams: up to eight most is coincidence, beyond it most is quotation
(bench/index.py)."""

PROMPT = 3
"""Tokens. One or two recur in any text; from the third on, a token continues a run that was begun. That the run must
be longer than any in the text keeps common phrases out: of the tokens of held-out tales, after prompts of 100 tokens,
1.6 % end a run of three from the prompt, and 0.4 % one that the text does not hold."""

SUPPORT = 10
"""Times. The standard error of a share of one half, seen in ten places, is a sixth; below that it says little."""

SHARE = 0.5
"""Half: no other token is more frequent after this context, and whoever guesses it is right as often as not. Of the
tokens of held-out tales 8 % follow such a rule."""


@dataclass(frozen=True)
class TokenEvidence:
    """One token's account; the module says what its numbers mean.

    text_count: how often its match stands in the text. prompt_at: the place, among the prompt's ids, of the token
    that it repeats (the latest of the longest matches); None without one. rule_context: the length of the longest
    context with enough support, 0 if there is none; rule_support: how often the text has that context, rule_count:
    how often this token follows it there.
    """

    id: int
    kind: Kind
    text_match: int
    text_count: int
    prompt_match: int
    prompt_at: int | None
    rule_context: int
    rule_support: int
    rule_count: int


@dataclass(frozen=True)
class Passage:
    """ids[start:stop] stand in the text as they do here, `count` times, and one token more on either side does not.

    `places` are the first of them in the order of the text.
    """

    start: int
    stop: int
    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Evidence:
    """The account of a generation: one entry for each generated token, and the verbatim passages that hold some."""

    tokens: tuple[TokenEvidence, ...]
    passages: tuple[Passage, ...]

    def shares(self) -> dict[Kind, float]:
        """The share of the generated tokens that is of each kind; all 0 if there are none."""
        counts = Counter(token.kind for token in self.tokens)
        kinds: tuple[Kind, ...] = ("prompt", "verbatim", "rule", "none")
        return {kind: counts[kind] / max(len(self.tokens), 1) for kind in kinds}


@dataclass(frozen=True)
class Frequency:
    """How often a token follows, and the share of all places in which it does."""

    id: int
    count: int
    share: float


@dataclass(frozen=True)
class Frequencies:
    """What follows the last `length` tokens of a context: in `ends` of `count` places the document ends."""

    length: int
    count: int
    ends: int
    next: tuple[Frequency, ...]


@dataclass(frozen=True)
class Seen:
    """One place of a passage in the training text, and each time that at least one token of it was to be predicted
    (whether or not its loss counted: in conversations, only that of answers does).
    """

    place: Place
    exposures: tuple[Exposure, ...]


def gather(text: IndexedText, ids: Sequence[int], n_prompt: int, *, places: int = 3) -> Evidence:
    """The evidence for ids[n_prompt:], which were generated after the prompt ids[:n_prompt].

    places: how many of the places of each passage are cited.
    """
    lengths = text.index.match_lengths(ids)
    return Evidence(
        tuple(_account(text.index, ids, n_prompt, lengths)),
        tuple(
            Passage(
                span.start,
                span.stop,
                text.index.count(ids[span.start : span.stop]),
                tuple(cite(text, ids[span.start : span.stop], places)),
            )
            for span in verbatim_spans(lengths, VERBATIM)
            if span.stop > n_prompt
        ),
    )


def cite(text: IndexedText, ids: Sequence[int], limit: int | None = None) -> list[Place]:
    """Where the passage stands, in the order of the text; the first `limit` places if it is given."""
    return [text.place(occurrence) for occurrence in text.index.occurrences(ids, limit)]


def frequencies(index: Index, context: Sequence[int], *, top: int = 10) -> list[Frequencies]:
    """The `top` most frequent tokens after each end of the context that stands in the text, the longest first.

    Ties go to the lower id. The last entry, of length 0, has the frequencies of single tokens.
    """
    known = index.longest_suffix(context)
    return [_frequencies(index, context[len(context) - length :], top) for length in range(known, -1, -1)]


def exposures(text: IndexedText, order: Order, ids: Sequence[int], steps: int, *, limit: int = 100) -> list[Seen]:
    """When the first `steps` steps of a training in this order read the passage, place by place.

    order: of this text (`training_order` reads it from a run folder). limit: so many of its places are looked at.
    """
    assert order.n_tokens == len(text.shards.tokens), "the order is another text's"
    return [
        Seen(place, tuple(order.exposures(range(place.position, place.position + len(ids)), steps)))
        for place in cite(text, ids, limit)
    ]


def prompt_matches(ids: Sequence[int], n_prompt: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each token, how many up to and with it stand somewhere in the prompt before it, and where that ends.

    Both int64 [len(ids)]; the place is that of the last token of the latest longest match, -1 without a match.
    """
    every = np.asarray(ids, np.int64)
    prompt = every[:n_prompt]
    lengths, places = np.zeros(len(ids), np.int64), np.full(len(ids), -1)
    runs = np.zeros(n_prompt, np.int64)  # tokens that agree up to each of the prompt's and up to ids[i]
    for i, id in enumerate(every):
        before = np.append(0, runs[:-1])[:n_prompt]
        runs = np.where(prompt == id, before + 1, 0).astype(np.int64)
        runs[i:] = 0  # not itself
        if runs.any():
            lengths[i] = runs.max()
            places[i] = n_prompt - 1 - int(np.argmax(runs[::-1]))
    return lengths, places


def _account(
    index: Index, ids: Sequence[int], n_prompt: int, text_lengths: npt.NDArray[np.int64]
) -> list[TokenEvidence]:
    prompt_lengths, prompt_places = prompt_matches(ids, n_prompt)
    account = []
    for i in range(n_prompt, len(ids)):
        text_match, prompt_match = int(text_lengths[i]), int(prompt_lengths[i])
        context = index.longest_suffix(ids[:i], support=SUPPORT)
        support = index.count(ids[i - context : i]) if context else 0
        followed = index.count(ids[i - context : i + 1]) if context else 0
        if prompt_match >= PROMPT and prompt_match > text_match:
            kind: Kind = "prompt"
        elif text_match >= VERBATIM:
            kind = "verbatim"
        elif support and followed >= SHARE * support:
            kind = "rule"
        else:
            kind = "none"
        account.append(
            TokenEvidence(
                id=int(ids[i]),
                kind=kind,
                text_match=text_match,
                text_count=index.count(ids[i + 1 - text_match : i + 1]) if text_match else 0,
                prompt_match=prompt_match,
                prompt_at=int(prompt_places[i]) if prompt_match else None,
                rule_context=context,
                rule_support=support,
                rule_count=followed,
            )
        )
    return account


def _frequencies(index: Index, context: Sequence[int], top: int) -> Frequencies:
    found = index.next_counts(context)
    order = np.argsort(-found.counts, kind="stable")[:top]
    rows = [(int(found.ids[i]), int(found.counts[i])) for i in order]
    return Frequencies(
        len(context),
        found.total,
        found.ends,
        tuple(Frequency(id, count, count / found.total) for id, count in rows),
    )
