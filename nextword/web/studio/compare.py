"""Two next words side by side: of two texts, of two models, or of both.

Promises, with a test: each side's probabilities, the row of all others included, add up to 1; a token is the same as
another if it has the same bytes, whatever its ids; `distance` is the total variation between both sides, which is how
much of the odds would have to move from one to get the other: 0 for equal odds, 1 for odds with nothing in common;
where one text is read by two models of one shape, or two texts by one model, the difference of a logit is an exact
sum over the model's parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.errors import InputError
from nextword.web.studio.requests import AskDifference, AskOdds
from nextword.web.studio.views import Json, Views

SIDES = ("left", "right")


def compare(left: Views, ask_left: AskOdds, right: Views, ask_right: AskOdds) -> Json:
    """The likeliest tokens of either side, by their larger probability, with both; None where a side lacks the token.

    Raises what asking either side for its odds does.
    """
    views, asks = (left, right), (ask_left, ask_right)
    odds = [view.probabilities(ask) for view, ask in zip(views, asks, strict=True)]
    spelled = [view.spellings for view in views]
    best: dict[bytes, None] = {}
    for own, names, ask in zip(odds, spelled, asks, strict=True):
        best |= dict.fromkeys(names[int(id)] for id in np.argsort(-own, kind="stable")[: ask.rows])
    ids = [{token: id for id, token in enumerate(names)} for names in spelled]
    rows = [_row(token, odds, ids) for token in best]
    rows.sort(key=lambda row: -max(row[side] or 0.0 for side in SIDES))
    return {
        "rows": rows,
        "rest": {side: max(1.0 - sum(row[side] or 0.0 for row in rows), 0.0) for side in SIDES},
        "distance": _distance(odds, spelled),
        "alike": _alike(left, ask_left, right, ask_right),
        "left": _side(left, ask_left, odds[0]),
        "right": _side(right, ask_right, odds[1]),
    }


def difference(left: Views, right: Views, ask: AskDifference) -> Json:
    """Which parts make the difference of a token's logit (nextword.trace.logit.diff), the token an id of both.

    `texts`: whether between two texts, where its lead over the mean of all tokens is told: from text to text all logits
    may move together. Raises InputError unless the models, if they are two, cut text alike and are of one shape;
    UnknownToken.
    """
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.diff import compare_models, compare_texts

    if not left.is_like(right):
        raise InputError("Only models of one shape that cut text alike can be taken apart side by side.")
    ids = left.ids_of(ask.left)
    left.spell(ask.token)
    if left is right:
        found = compare_texts(left.definition, ids, left.ids_of(ask.right), Quantity(ask.token, "mean"))
    else:
        found = compare_models(left.definition, right.definition, ids, Quantity(ask.token))
    return {"texts": left is right, **found.to_json(left.spell, ask.count, "head")}


def _alike(left: Views, ask_left: AskOdds, right: Views, ask_right: AskOdds) -> bool:
    """Whether one thing is compared: two texts read by one model, or one text by two models of one shape."""
    same = ask_left.prompt == ask_right.prompt
    return not same if left is right else same and left.is_like(right)


def _row(token: bytes, odds: list[npt.NDArray[np.float64]], ids: list[dict[bytes, int]]) -> Json:
    shares = [float(own[known[token]]) if token in known else None for own, known in zip(odds, ids, strict=True)]
    known = {
        "ids": {side: own.get(token) for side, own in zip(SIDES, ids, strict=True)},
        "token": token.decode("utf-8", "backslashreplace"),
    }
    return {**known, **dict(zip(SIDES, shares, strict=True))}


def _side(view: Views, ask: AskOdds, odds: npt.NDArray[np.float64]) -> Json:
    favourite = int(odds.argmax())
    entropy = float(-(odds[odds > 0] * np.log2(odds[odds > 0])).sum())
    return {
        "model": view.name,
        "text": ask.prompt,
        "favourite": {"token": view.spell(favourite), "probability": float(odds[favourite])},
        "entropy": entropy,
    }


def _distance(odds: list[npt.NDArray[np.float64]], spelled: list[Any]) -> float:
    if spelled[0] == spelled[1]:
        return float(np.abs(odds[0] - odds[1]).sum() / 2)
    sums: dict[bytes, float] = {}
    for sign, own, names in zip((1, -1), odds, spelled, strict=True):
        for token, share in zip(names, own.tolist(), strict=True):
            sums[token] = sums.get(token, 0.0) + sign * share
    return sum(map(abs, sums.values())) / 2
