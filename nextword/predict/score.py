"""How probable a given text is: the log-probability of each of its tokens, given those before it.

A text longer than the model's context is read in overlapping windows: every token is predicted from at least
half a context, except at the text's own beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextword.predict.engine import Engine, Logits

CHUNK = 128  # logits held at once: rows of the vocabulary's size


def log_probabilities(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Natural log-probability of ids[1:], each given what stands before it, float64 [len(ids) - 1].

    Raises UnknownToken for an id outside the vocabulary.
    """
    context = engine.architecture.context
    scores = np.empty(max(len(ids) - 1, 0))
    done = 0  # scores[:done] are known: those of ids[1 : done + 1]
    while done < len(scores):
        start = done - context // 2 if done else 0
        end = min(start + context, len(scores))
        session = engine.open_session(end - start)
        if done > start:
            session.feed(ids[start:done])
        for at in range(done, end, CHUNK):
            after = min(at + CHUNK, end)
            rows = log_softmax(session.feed_all(ids[at:after]))
            scores[at:after] = rows[np.arange(after - at), ids[at + 1 : after + 1]]
        done = end
    return scores


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, along the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    normed: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return normed
