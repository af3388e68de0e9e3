"""Scores of a given text: the log-probability of each of its tokens, given those before it.

A text longer than the model's context is read in overlapping windows: every token is predicted from at least
half a context, except at the text's own beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextword.predict.engine import Engine, Logits

LOGIT_ROWS = 128  # tokens: whose logits are in memory at once, a row of the vocabulary's size each


def log_probabilities(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Natural log-probabilities of ids[1:], each given the ids before it, float64 [len(ids) - 1].

    Raises:
        UnknownToken: An id is outside the vocabulary.
    """
    context = engine.architecture.context
    scores = np.empty(max(len(ids) - 1, 0))
    done = 0  # scores[:done], those of ids[1 : done + 1], are computed
    while done < len(scores):
        start = done - context // 2 if done else 0
        end = min(start + context, len(scores))
        session = engine.open_session(end - start)
        if done > start:
            session.feed(ids[start:done])
        for at in range(done, end, LOGIT_ROWS):
            after = min(at + LOGIT_ROWS, end)
            rows = log_softmax(session.feed_all(ids[at:after]))
            scores[at:after] = rows[np.arange(after - at), ids[at + 1 : after + 1]]
        done = end
    return scores


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural log-probabilities along the last axis, float64 of the shape of `logits`.

    >>> np.exp(log_softmax(np.zeros((1, 4), np.float32))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    normed: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return normed
