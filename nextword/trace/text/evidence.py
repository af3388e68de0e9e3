"""What the indexed text says about a model's words: what they copy, which rule they follow, when it was read.

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

`frequencies` counts what followed each end of a context, and `exposures` finds the steps and rows of training that
read a passage.
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

EvidenceKind = Literal["prompt", "verbatim", "rule", "none"]

VERBATIM = 8
"""Tokens. Of held-out tales, 42 million tokens of others hold 43 % of the 4-grams, 7 % of the 6-grams, 1.5 % of the
8-grams, 0.8 % of the 10-grams and 0.7 % of the 12-grams: up to eight most is coincidence, beyond it most is quotation
(bench/index.py)."""

PROMPT = 3
"""Tokens. One or two recur in any text; from the third on, a token continues a run that was begun. That the run must
be longer than any in the text keeps common phrases out: of the tokens of held-out tales, after prompts of 100 tokens,
1.6 % end a run of three from the prompt, and 0.4 % one that the text does not hold."""

SUPPORT = 10
"""Places of a context in the text. The standard error of a fraction of one half, seen in ten places, is a sixth; with
fewer places the fraction says little."""

SHARE = 0.5
"""Fraction of a context's places. From one half on, no other token is more frequent after it, and whoever guesses it is
right at least as often as not. Of the tokens of held-out tales 8 % follow a rule of this kind."""


@dataclass(frozen=True)
class TokenEvidence:
    """The evidence for one token; the module's docstring defines the kinds.

    Args:
        id: Of the token.
        kind: Of the evidence.
        text_match: The number of tokens, up to and with this one, that stand in the text as they do here.
        text_count: The number of times that this match stands in the text.
        prompt_match: The number of tokens, up to and with this one, that stand at an earlier place in the prompt.
        prompt_at: The position of the prompt's token that this one repeats (the latest of the longest matches); None
            without a match.
        rule_context: The length in tokens of the longest context with enough support; 0 if there is none.
        rule_support: The number of times that the text has that context.
        rule_count: The number of times that this token follows the context there.
    """

    id: int
    kind: EvidenceKind
    text_match: int
    text_count: int
    prompt_match: int
    prompt_at: int | None
    rule_context: int
    rule_support: int
    rule_count: int


@dataclass(frozen=True)
class Passage:
    """A passage of the ids that stands in the text as it does here; with one token more on either side it does not.

    Args:
        start: Position of its first token.
        stop: Position after its last token.
        count: The number of times that it stands in the text.
        places: The first of these places, in the order of the text.
    """

    start: int
    stop: int
    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Evidence:
    """The evidence for a generation.

    Attributes:
        tokens: One entry for each generated token.
        passages: The verbatim passages that hold at least one of them.
    """

    tokens: tuple[TokenEvidence, ...]
    passages: tuple[Passage, ...]

    def shares(self) -> dict[EvidenceKind, float]:
        """The fraction of the generated tokens that is of each kind; all 0 if there are none."""
        counts = Counter(token.kind for token in self.tokens)
        kinds: tuple[EvidenceKind, ...] = ("prompt", "verbatim", "rule", "none")
        return {kind: counts[kind] / max(len(self.tokens), 1) for kind in kinds}


@dataclass(frozen=True)
class Frequency:
    """How often a token follows a context.

    Args:
        id: Of the token.
        count: The number of places where it follows.
        share: The same as a fraction of all places of the context.
    """

    id: int
    count: int
    share: float


@dataclass(frozen=True)
class Frequencies:
    """What follows the end of a context in the text.

    Args:
        length: Of that end, in tokens.
        count: The number of places where it stands.
        ends: The number of these where the document ends with it.
        next: The most frequent tokens that follow.
    """

    length: int
    count: int
    ends: int
    next: tuple[Frequency, ...]


@dataclass(frozen=True)
class Seen:
    """The exposures of one place of a passage in training.

    Attributes:
        place: Of the passage in the text.
        exposures: Each time that at least one of its tokens was to be predicted, whether or not its loss counted (in
            conversations, only that of answers does).
    """

    place: Place
    exposures: tuple[Exposure, ...]


def gather(text: IndexedText, ids: Sequence[int], n_prompt: int, *, places: int = 3) -> Evidence:
    """The evidence for generated tokens.

    Args:
        text: The indexed text.
        ids: Token ids of the prompt and the generated tokens.
        n_prompt: The number of ids that are the prompt's.
        places: The number of places of each passage that are cited.

    Raises:
        CorruptFile: The text is damaged.
    """
    lengths = text.index.match_lengths(ids)
    return Evidence(
        tuple(_token_evidence(text.index, ids, n_prompt, lengths)),
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
    """The places of a passage, in the order of the text.

    Args:
        text: The indexed text.
        ids: Token ids of the passage.
        limit: The number of places to find at most, None: all.

    Raises:
        CorruptFile: The text's table of documents is damaged.
    """
    return [text.place(occurrence) for occurrence in text.index.occurrences(ids, limit)]


def frequencies(index: Index, context: Sequence[int], *, top: int = 10) -> list[Frequencies]:
    """The most frequent tokens after each end of a context that stands in the text, the longest end first.

    The last entry, of length 0, has the frequencies of single tokens.

    Args:
        index: Of the text.
        context: Token ids.
        top: The number of tokens after each end; ties go to the lower id.
    """
    known = index.longest_suffix(context)
    return [_frequencies(index, context[len(context) - length :], top) for length in range(known, -1, -1)]


def exposures(text: IndexedText, order: Order, ids: Sequence[int], steps: int, *, limit: int = 100) -> list[Seen]:
    """When training read a passage, place by place.

    Args:
        text: The indexed text.
        order: In which the run reads this text (`training_order` finds it).
        ids: Token ids of the passage.
        steps: The number of steps, from the first on, that are looked at.
        limit: The number of places, from the text's first on, that are looked at.
    """
    assert order.n_tokens == len(text.shards.tokens), "the order is another text's"
    return [
        Seen(place, tuple(order.exposures(range(place.position, place.position + len(ids)), steps)))
        for place in cite(text, ids, limit)
    ]


def prompt_matches(ids: Sequence[int], n_prompt: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each token the longest match that ends with it at an earlier place in the prompt.

    Returns:
        The lengths of the matches in tokens, and the position of the last token of the latest longest match, -1 without
        one; both int64 [len(ids)].

    >>> lengths, places = prompt_matches([7, 8, 5, 7, 8], 5)
    >>> lengths.tolist(), places.tolist()
    ([0, 0, 0, 1, 2], [-1, -1, -1, 0, 1])
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


def _token_evidence(
    index: Index, ids: Sequence[int], n_prompt: int, text_lengths: npt.NDArray[np.int64]
) -> list[TokenEvidence]:
    """The evidence for each of ids[n_prompt:]; `text_lengths` are the matches of all ids in the text."""
    prompt_lengths, prompt_places = prompt_matches(ids, n_prompt)
    found = []
    for i in range(n_prompt, len(ids)):
        text_match, prompt_match = int(text_lengths[i]), int(prompt_lengths[i])
        context = index.longest_suffix(ids[:i], support=SUPPORT)
        support = index.count(ids[i - context : i]) if context else 0
        followed = index.count(ids[i - context : i + 1]) if context else 0
        if prompt_match >= PROMPT and prompt_match > text_match:
            kind: EvidenceKind = "prompt"
        elif text_match >= VERBATIM:
            kind = "verbatim"
        elif support and followed >= SHARE * support:
            kind = "rule"
        else:
            kind = "none"
        found.append(
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
    return found


def _frequencies(index: Index, context: Sequence[int], top: int) -> Frequencies:
    """The `top` most frequent tokens after one context."""
    found = index.next_counts(context)
    order = np.argsort(-found.counts, kind="stable")[:top]
    rows = [(int(found.ids[i]), int(found.counts[i])) for i in order]
    return Frequencies(
        len(context),
        found.total,
        found.ends,
        tuple(Frequency(id, count, count / found.total) for id, count in rows),
    )
