"""What an indexed text says about one token, as the JSON of a receipt: `sources` in nextword.trace.receipt.receipt.

The thresholds and what they mean are those of evidence.py; here its account of one token gets the words
of the text around the longest match, what followed each end of the prompt, and when training saw the match.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from nextword.parameters.run_folder import RunFolder
from nextword.trace.logit.explanation import TokenText
from nextword.trace.text import evidence
from nextword.trace.text.evidence import Seen, TokenEvidence
from nextword.trace.text.indexed import IndexedText, Place, training_order

PLACES, AROUND = 3, 16  # places that are shown of a match, and tokens on either side of it
LENGTHS, NEXT = 8, 5  # lengths of context, and tokens that followed each
STEPS = 20  # of training that are listed for a place
LOOKED = 1000  # places of a match whose reading is looked up

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


def without_text() -> dict[str, Any]:
    """What is told where there is no text."""
    return {"note": NO_TEXT, "evidence": None, "text": None}


def sources_of(text: IndexedText, ids: Sequence[int], token: int, decode_token: TokenText) -> dict[str, Any]:
    """What the text says about `token` after `ids`. Raises CorruptFile for a damaged text."""
    (account,) = evidence.gather(text, [*ids, token], len(ids)).tokens
    length = account.text_match
    match = [*ids, token][len(ids) + 1 - length :] if length else []
    return {
        "note": _SENTENCES[account.kind],
        "evidence": {
            "kind": account.kind,
            "tests": _tests(account),
            "account": {k: v for k, v in dataclasses.asdict(account).items() if k not in ("id", "kind")},
            "longest": _longest(text, match, account) if match else None,
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


def sentence(sources: dict[str, Any]) -> str:
    """The same in one line for a terminal."""
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


def _tests(account: TokenEvidence) -> list[dict[str, Any]]:
    share = account.rule_count / account.rule_support if account.rule_support else 0.0
    longer = account.prompt_match > account.text_match
    return [
        {
            "kind": "prompt",
            "found": account.prompt_match,
            "needed": evidence.PROMPT,
            "holds": account.prompt_match >= evidence.PROMPT and longer,
        },
        {
            "kind": "verbatim",
            "found": account.text_match,
            "needed": evidence.VERBATIM,
            "holds": account.text_match >= evidence.VERBATIM,
        },
        {"kind": "rule", "found": share, "needed": evidence.SHARE, "holds": share >= evidence.SHARE},
    ]


def _longest(text: IndexedText, match: Sequence[int], account: TokenEvidence) -> dict[str, Any]:
    return {
        "length": len(match),
        "text": text.tokenizer.decode(match),
        "count": account.text_count,
        "places": [_place(text, place, len(match)) for place in evidence.cite(text, match, PLACES)],
    }


def _place(text: IndexedText, place: Place, length: int) -> dict[str, Any]:
    first, last = (int(text.shards.starts[place.document + more]) for more in (0, 1))
    begin, end = place.position, place.position + length

    def words(start: int, stop: int) -> str:
        ids = [int(id) for id in text.shards.tokens[max(start, first) : min(stop, last)]]
        return text.tokenizer.decode(ids, skip_special=True)

    return _named(place) | {
        "document": place.document,
        "offset": place.offset,
        "before": words(begin - AROUND, begin),
        "match": words(begin, end),
        "after": words(end, end + AROUND),
    }


def _ngrams(text: IndexedText, ids: Sequence[int], token: int, decode_token: TokenText) -> list[dict[str, Any]]:
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


def _of_token(text: IndexedText, run: Sequence[int], places: int) -> dict[str, Any]:
    count = text.index.count(run)
    return {"count": count, "share": count / places if places else 0.0}


def _exposures(text: IndexedText, match: Sequence[int]) -> dict[str, Any] | None:
    """When a run's training saw the longest match; None where the text is not that of a run."""
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
        "seen": [_seen(place) for place in read[:PLACES]],
    }


def _first(seen: Seen) -> int:
    return min(exposure.step for exposure in seen.exposures)


def _seen(seen: Seen) -> dict[str, Any]:
    """Steps are counted from 1, as a run tells them."""
    steps = sorted({exposure.step + 1 for exposure in seen.exposures})
    return {**_named(seen.place), "times": len(seen.exposures), "steps": steps[:STEPS]}


def _named(place: Place) -> dict[str, Any]:
    """A place by its file's name alone: a receipt is given away, and where its writer keeps files is nobody's."""
    return {"title": place.title, "source": PurePath(place.source).name, "line": place.line}
