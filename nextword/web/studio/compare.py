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

from nextword.base.types import Json
from nextword.errors import InputError
from nextword.web.studio.requests import DifferenceRequest, DrawRequest
from nextword.web.studio.views import Views

SIDES = ("left", "right")


def compare(left: Views, left_request: DrawRequest, right: Views, right_request: DrawRequest) -> Json:
    """The likeliest tokens of either side, by their larger probability, with both; None where a side lacks the token.

    Raises what asking either side for its odds does.
    """
    views, requests = (left, right), (left_request, right_request)
    probabilities = [view.probabilities(request) for view, request in zip(views, requests, strict=True)]
    is_text = [view.spellings for view in views]
    best: dict[bytes, None] = {}
    for own, names, request in zip(probabilities, is_text, requests, strict=True):
        best |= dict.fromkeys(names[int(id)] for id in np.argsort(-own, kind="stable")[: request.rows])
    ids = [{token: id for id, token in enumerate(names)} for names in is_text]
    rows = [_row(token, probabilities, ids) for token in best]
    rows.sort(key=lambda row: -max(row[side] or 0.0 for side in SIDES))
    return {
        "rows": rows,
        "rest": {side: max(1.0 - sum(row[side] or 0.0 for row in rows), 0.0) for side in SIDES},
        "distance": _distance(probabilities, is_text),
        "alike": _alike(left, left_request, right, right_request),
        "left": _side(left, left_request, probabilities[0]),
        "right": _side(right, right_request, probabilities[1]),
    }


def difference(left: Views, right: Views, request: DifferenceRequest) -> Json:
    """Which parts make the difference of a token's logit (nextword.trace.logit.diff), the token an id of both.

    `texts`: whether between two texts, where its lead over the mean of all tokens is told: from text to text all logits
    may move together. Raises InputError unless the models, if they are two, cut text alike and are of one shape;
    UnknownToken.
    """
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.diff import compare_models, compare_texts

    if not left.is_like(right):
        raise InputError("Only models of one shape that cut text alike can be taken apart side by side.")
    ids = left.ids_of(request.left)
    left.decode_token(request.token)
    if left is right:
        found = compare_texts(left.reference_model, ids, left.ids_of(request.right), Quantity(request.token, "mean"))
    else:
        found = compare_models(left.reference_model, right.reference_model, ids, Quantity(request.token))
    return {"texts": left is right, **found.to_json(left.decode_token, request.count, "head")}


def _alike(left: Views, left_request: DrawRequest, right: Views, right_request: DrawRequest) -> bool:
    """Whether one thing is compared: two texts read by one model, or one text by two models of one shape."""
    same = left_request.prompt == right_request.prompt
    return not same if left is right else same and left.is_like(right)


def _row(token: bytes, probabilities: list[npt.NDArray[np.float64]], ids: list[dict[bytes, int]]) -> Json:
    shares = [
        float(own[known[token]]) if token in known else None for own, known in zip(probabilities, ids, strict=True)
    ]
    known = {
        "ids": {side: own.get(token) for side, own in zip(SIDES, ids, strict=True)},
        "token": token.decode("utf-8", "backslashreplace"),
    }
    return {**known, **dict(zip(SIDES, shares, strict=True))}


def _side(view: Views, request: DrawRequest, probabilities: npt.NDArray[np.float64]) -> Json:
    top1 = int(probabilities.argmax())
    entropy = float(-(probabilities[probabilities > 0] * np.log2(probabilities[probabilities > 0])).sum())
    return {
        "model": view.name,
        "text": request.prompt,
        "top1": {"token": view.decode_token(top1), "probability": float(probabilities[top1])},
        "entropy": entropy,
    }


def _distance(probabilities: list[npt.NDArray[np.float64]], is_text: list[Any]) -> float:
    if is_text[0] == is_text[1]:
        return float(np.abs(probabilities[0] - probabilities[1]).sum() / 2)
    sums: dict[bytes, float] = {}
    for sign, own, names in zip((1, -1), probabilities, is_text, strict=True):
        for token, share in zip(names, own.tolist(), strict=True):
            sums[token] = sums.get(token, 0.0) + sign * share
    return sum(map(abs, sums.values())) / 2
