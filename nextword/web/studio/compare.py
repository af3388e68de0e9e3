"""Two next words side by side: of two texts, of two models, or of both.

Promises, with a test: each side's probabilities, the row of all others included, add up to 1; a token is the same as
another if it has the same bytes, whatever its ids; `distance` is the total variation between both sides: the
probability that would have to move to turn one distribution into the other, 0 for equal ones, 1 for ones with no token
in common; where one text is read by two models of one shape, or two texts by one model, the difference of a logit is an
exact sum over the model's parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextword.base.types import Json
from nextword.errors import InputError
from nextword.web.studio.requests import DifferenceRequest, DrawRequest
from nextword.web.studio.views import Views

Probabilities = npt.NDArray[np.float64]
SIDES = ("left", "right")


def compare(left: Views, left_request: DrawRequest, right: Views, right_request: DrawRequest) -> Json:
    """The most probable tokens of either side, with both probabilities, None where a side lacks the token.

    Rows are in the order of the larger of both. `rest` is the probability of all other tokens on each side.

    Args:
        left: The first model.
        left_request: The text that it reads; its `rows` most probable tokens are shown.
        right: The second model, which may be the first.
        right_request: The text that the second model reads.

    Raises:
        InputError: A text is empty.
        ContextOverflow: A text is longer than its model's context.
    """
    views, requests = (left, right), (left_request, right_request)
    probabilities = [view.probabilities(request) for view, request in zip(views, requests, strict=True)]
    vocabularies = [view.token_bytes for view in views]
    best: dict[bytes, None] = {}
    for own, names, request in zip(probabilities, vocabularies, requests, strict=True):
        best |= dict.fromkeys(names[int(id)] for id in np.argsort(-own, kind="stable")[: request.rows])
    ids = [{token: id for id, token in enumerate(names)} for names in vocabularies]
    rows = [_row(token, probabilities, ids) for token in best]
    rows.sort(key=lambda row: -max(row[side] or 0.0 for side in SIDES))
    return {
        "rows": rows,
        "rest": {side: max(1.0 - sum(row[side] or 0.0 for row in rows), 0.0) for side in SIDES},
        "distance": _distance(probabilities, vocabularies),
        "alike": _alike(left, left_request, right, right_request),
        "left": _side(left, left_request, probabilities[0]),
        "right": _side(right, right_request, probabilities[1]),
    }


def difference(left: Views, right: Views, request: DifferenceRequest) -> Json:
    """The components that make the difference of a token's logit (nextword.trace.logit.diff).

    `texts`: whether two texts are compared. Then it is the logit above the mean of all tokens that is explained: from
    text to text all logits may move together.

    Args:
        left: The first model.
        right: The second model; the first again to compare two texts.
        request: The token, an id of both models, and the texts; of two models only the left text is read.

    Raises:
        InputError: The models have different tokenizers or architectures.
        UnknownToken: The token is outside the vocabulary.
    """
    from nextword.trace.logit.attribution import Quantity
    from nextword.trace.logit.diff import compare_models, compare_texts

    if not left.is_like(right):
        raise InputError("Only models of one shape that cut text alike can be taken apart side by side.")
    ids = left.ids_of(request.left)
    left.decode_token(request.token)
    if left is right:
        found = compare_texts(
            left.gpt.reference_model, ids, left.ids_of(request.right), Quantity(request.token, "mean")
        )
    else:
        found = compare_models(left.gpt.reference_model, right.gpt.reference_model, ids, Quantity(request.token))
    return {"texts": left is right, **found.to_json(left.decode_token, request.count, "head")}


def _alike(left: Views, left_request: DrawRequest, right: Views, right_request: DrawRequest) -> bool:
    """Whether one thing is compared: two texts read by one model, or one text by two models of one shape."""
    same = left_request.prompt == right_request.prompt
    return not same if left is right else same and left.is_like(right)


def _row(token: bytes, probabilities: Sequence[Probabilities], ids: Sequence[dict[bytes, int]]) -> Json:
    own_probabilities = [
        float(own[known[token]]) if token in known else None for own, known in zip(probabilities, ids, strict=True)
    ]
    known = {
        "ids": {side: own.get(token) for side, own in zip(SIDES, ids, strict=True)},
        "token": token.decode("utf-8", "backslashreplace"),
    }
    return {**known, **dict(zip(SIDES, own_probabilities, strict=True))}


def _side(view: Views, request: DrawRequest, probabilities: Probabilities) -> Json:
    top1 = int(probabilities.argmax())
    entropy = float(-(probabilities[probabilities > 0] * np.log2(probabilities[probabilities > 0])).sum())
    return {
        "model": view.name,
        "text": request.prompt,
        "top1": {"token": view.decode_token(top1), "probability": float(probabilities[top1])},
        "entropy": entropy,
    }


def _distance(probabilities: Sequence[Probabilities], vocabularies: Sequence[Sequence[bytes]]) -> float:
    if vocabularies[0] == vocabularies[1]:
        return float(np.abs(probabilities[0] - probabilities[1]).sum() / 2)
    sums: dict[bytes, float] = {}
    for sign, own, names in zip((1, -1), probabilities, vocabularies, strict=True):
        for token, probability in zip(names, own.tolist(), strict=True):
            sums[token] = sums.get(token, 0.0) + sign * probability
    return sum(map(abs, sums.values())) / 2
