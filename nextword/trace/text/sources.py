"""What an indexed text says about one token, as the JSON of a receipt: `sources` in nextword.trace.receipt.receipt.

The thresholds and what they mean are those of evidence.py; here its evidence for one token gets the words
of the text around the longest match, what followed each end of the prompt, and when training read the match.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath

from nextword.base.types import Json, TokenText
from nextword.parameters.run_folder import RunFolder
from nextword.trace.text import evidence
from nextword.trace.text.evidence import Seen, TokenEvidence
from nextword.trace.text.indexed import IndexedText, Place, training_order

CITED_PLACES, AROUND_TOKENS = 3, 16  # places: of a match that are shown; tokens: on either side of each
LENGTHS, NEXT = 8, 5  # contexts: of different length; tokens: that followed each
STEPS = 20  # steps: of training that are listed for a place
LOOKED = 1000  # places: of a match whose exposures are looked up

NO_TEXT = (
    "The text this model learned from is not here. Give one with --text FOLDER, made by "
    "`nextword index FILES --model M --out FOLDER`; a model in a run folder brings its own after `nextword index RUN`."
)
_SENTENCES = {
    "prompt": "It repeats a run of words of the prompt that the indexed text does not hold.",
    "verbatim": "The last words and this one stand in the indexed text exactly so: it may be recited.",
    "rule": "After these words, the indexed text goes on with this one at least half of the time.",
    "none": "Neither a passage, nor a frequent continuation in the indexed text, nor a copy from the prompt.",
}


def without_text() -> Json:
    """The value of `sources` where there is no text."""
    return {"note": NO_TEXT, "evidence": None, "text": None}


def sources_of(text: IndexedText, ids: Sequence[int], token: int, decode_token: TokenText) -> Json:
    """What the text says about a token after a prompt.

    Args:
        text: The indexed text.
        ids: Token ids of the prompt.
        token: Id of the token.
        decode_token: Gives the text of an id.

    Raises:
        CorruptFile: The text is damaged.
    """
    (token_evidence,) = evidence.gather(text, [*ids, token], len(ids)).tokens
    length = token_evidence.text_match
    match = [*ids, token][len(ids) + 1 - length :] if length else []
    return {
        "note": _SENTENCES[token_evidence.kind],
        "evidence": {
            "kind": token_evidence.kind,
            "tests": _tests(token_evidence),
            "account": {k: v for k, v in dataclasses.asdict(token_evidence).items() if k not in ("id", "kind")},
            "longest": _longest(text, match, token_evidence) if match else None,
            "ngrams": _ngrams(text, ids, token, decode_token),
            "exposures": _exposures(text, match) if match else None,
        },
        "text": {
            "folder": text.folder.name,
            "tokens": len(text.shards.tokens),
            "documents": text.shards.n_documents,
            "hash": text.shards.hash,
        },
    }


def sentence(sources: Json) -> str:
    """`sources` in one line for a terminal."""
    found = sources["evidence"]
    if found is None:
        return f"text: {sources['note']}"
    longest = found["longest"]
    if longest is None:
        return f"text: {sources['note']} This token never stands in it."
    place = longest["places"][0]
    title = f" {place['title']!r}" if place["title"] else ""
    times = "once" if longest["count"] == 1 else f"{longest['count']:,} times"
    where = f"{longest['text']!r} stands there {times}, first in{title} {place['source']}:{place['line']}"
    return f"text: {sources['note']} {where}"


def _tests(token_evidence: TokenEvidence) -> list[Json]:
    """For each kind of evidence what was found, what is needed, and whether that holds."""
    share = token_evidence.rule_count / token_evidence.rule_support if token_evidence.rule_support else 0.0
    longer = token_evidence.prompt_match > token_evidence.text_match
    return [
        {
            "kind": "prompt",
            "found": token_evidence.prompt_match,
            "needed": evidence.PROMPT,
            "holds": token_evidence.prompt_match >= evidence.PROMPT and longer,
        },
        {
            "kind": "verbatim",
            "found": token_evidence.text_match,
            "needed": evidence.VERBATIM,
            "holds": token_evidence.text_match >= evidence.VERBATIM,
        },
        {"kind": "rule", "found": share, "needed": evidence.SHARE, "holds": share >= evidence.SHARE},
    ]


def _longest(text: IndexedText, match: Sequence[int], token_evidence: TokenEvidence) -> Json:
    """The longest match and the first of its places."""
    return {
        "length": len(match),
        "text": text.tokenizer.decode(match),
        "count": token_evidence.text_count,
        "places": [_place(text, place, len(match)) for place in evidence.cite(text, match, CITED_PLACES)],
    }


def _place(text: IndexedText, place: Place, length: int) -> Json:
    """A place of a match of `length` tokens, with the words on either side of it."""
    first, last = (int(text.shards.starts[place.document + more]) for more in (0, 1))
    begin, end = place.position, place.position + length

    def words(start: int, stop: int) -> str:
        ids = [int(id) for id in text.shards.tokens[max(start, first) : min(stop, last)]]
        return text.tokenizer.decode(ids, skip_special=True)

    return _named(place) | {
        "document": place.document,
        "offset": place.offset,
        "before": words(begin - AROUND_TOKENS, begin),
        "match": words(begin, end),
        "after": words(end, end + AROUND_TOKENS),
    }


def _ngrams(text: IndexedText, ids: Sequence[int], token: int, decode_token: TokenText) -> list[Json]:
    """What followed the `LENGTHS` shortest ends of the prompt that stand in the text, the longest of them first."""
    return [
        {
            "length": row.length,
            "context": text.tokenizer.decode(ids[len(ids) - row.length :]),
            "count": row.count,
            "ends": row.ends,
            "next": [
                {"id": each.id, "token": decode_token(each.id), "count": each.count, "share": each.share}
                for each in row.next
            ],
            "of_token": _of_token(text, [*ids[len(ids) - row.length :], token], row.count),
        }
        for row in evidence.frequencies(text.index, ids, top=NEXT)[-LENGTHS:]
    ]


def _of_token(text: IndexedText, run: Sequence[int], places: int) -> Json:
    """How often the text has a context with the token after it, of the `places` that have the context."""
    count = text.index.count(run)
    return {"count": count, "share": count / places if places else 0.0}


def _exposures(text: IndexedText, match: Sequence[int]) -> Json | None:
    """When a run's training read the longest match; None where the text is not that of a run."""
    if not RunFolder(text.folder).has_card:
        return None
    order, steps = training_order(text.folder)
    places = evidence.exposures(text, order, match, steps, limit=LOOKED)
    read = sorted((place for place in places if place.exposures), key=_first)
    during = {exposure.step for place in read for exposure in place.exposures}
    return {
        "steps": steps,
        "passage": text.tokenizer.decode(match),
        "places": len(places),
        "read": len(read),
        "in_steps": len(during),
        "seen": [_seen(place) for place in read[:CITED_PLACES]],
    }


def _first(seen: Seen) -> int:
    """The first step that read a place."""
    return min(exposure.step for exposure in seen.exposures)


def _seen(seen: Seen) -> Json:
    """A place and the steps that read it, counted from 1 as a run reports them."""
    steps = sorted({exposure.step + 1 for exposure in seen.exposures})
    return {**_named(seen.place), "times": len(seen.exposures), "steps": steps[:STEPS]}


def _named(place: Place) -> Json:
    """A place by its file's name, without the folder: a receipt is given away, and paths are private."""
    return {"title": place.title, "source": PurePath(place.source).name, "line": place.line}
