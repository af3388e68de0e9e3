"""The receipt of one token: draw, filters, logit, attribution, audit and text as one JSON value that can be replayed.

    receipt       version of this schema: 3
    nextword      version of the package that wrote it
    model         name as it was opened, layers, heads, width, vocab, context
    hashes        weights, tokenizer: SHA-256; corpus: the hash of the indexed text, null without one
    request       what `replay` asks for again: token, contrast, count, granularity, ablation, reference, sampling,
                  seed, text
    prompt        text, ids, tokens
    lens          what the model would have predicted after each layer
    distribution  rows, more, filters, sampling, chosen, reference
    draw          how, token, seed, position, number, interval, segments
    why           the explanation: the logit, its attribution, components and audit (nextword.trace.logit.explanation)
    sources       what the indexed text says, or null and how to get it (nextword.trace.text.sources)
    views         only where a page is made of it: what is drawn beside the rest (nextword.trace.receipt.views)

Model and text are named as they were typed, the text's files by their names: a receipt is given away, and says nothing
else about where its writer keeps things. `web/pages/elements/README.md` has every key. The distribution is that of the
engine that writes, the attribution is of the reference model in float32; `distribution.reference` has both log p of the
token side by side. Nothing is rounded but `views.attention`.

The version goes up by one whenever a key is added, dropped, renamed or means something else; `request`, `prompt`,
`model` and `hashes` only ever gain keys, so that `replay.py` can ask again what any earlier receipt asked. Version 2
added estimated effects and the number of times that a passage was read; version 3 renamed keys (`replay._RENAMED`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nextword.base.types import Json, TokenText
from nextword.sample.sampler import Distribution, SampledToken, clamped_log
from nextword.sample.settings import Sampling

if TYPE_CHECKING:  # the studio and notebooks write distributions and draws without torch
    from nextword.trace.logit.explanation import Explanation

VERSION = 3
SHOWN_TOKENS = 10  # tokens: of the distribution that have a row; all others are one row

How = Literal["drawn", "greedy", "named"]


@dataclass(frozen=True)
class Chosen:
    """A token and how it was chosen.

    Args:
        how: "drawn"; "greedy": it is the most probable; "named": the caller gave it.
        id: Of the token.
        distribution: Of the next token, before and after the sampling settings.
        n_tokens: The number of ids that stand for tokens, from 0 on.
        sampling: The settings of a draw, None without one.
        seed: Of a draw.
        sampled: The account of a draw.
    """

    how: How
    id: int
    distribution: Distribution
    n_tokens: int
    sampling: Sampling | None = None
    seed: int | None = None
    sampled: SampledToken | None = None


@dataclass(frozen=True, repr=False)
class Receipt:
    """A receipt being written.

    Args:
        explanation: Of the token.
        chosen: The token, and how it was chosen.
        prompt: The text before it.
        sources: What the indexed text says (nextword.trace.text.sources).
        facts: The keys nextword (the version), model, hashes and request.
        views: Makes what is drawn beside the rest.
    """

    explanation: Explanation
    chosen: Chosen
    prompt: str
    sources: Mapping[str, Any]
    facts: Mapping[str, Any]
    views: Callable[[], Mapping[str, Any]]

    def __repr__(self) -> str:
        why, name = self.explanation, self.facts["model"]["name"]
        token = why.decode_token(why.token)
        what = f"{token!r} after {len(why.recording.ids)} tokens of {name}"
        return f"<Receipt of {what}: {why.probability:.2%}, {self.chosen.how}>"

    def with_views(self) -> Json:
        """As JSON values with the views, which take some more forward passes."""
        return {**self.to_json(), "views": dict(self.views())}

    def to_json(self) -> Json:
        """As JSON values, with the keys of the module's docstring."""
        why = self.explanation.to_json()
        ids, tokens, lens = why.pop("ids"), why.pop("tokens"), why.pop("lens")
        decode_token = self.explanation.decode_token
        token = {"id": self.explanation.token, "token": decode_token(self.explanation.token)}
        sampling = self.chosen.sampling
        distribution = distribution_to_json(
            self.chosen,
            decode_token,
            settings=None if sampling is None else sampling_to_json(sampling),
            reference=self.explanation.log_probability,
        )
        return {
            "receipt": VERSION,
            **self.facts,
            "prompt": {"text": self.prompt, "ids": ids, "tokens": tokens},
            "lens": {"token": token, "rows": lens},
            "distribution": distribution,
            "draw": draw_to_json(self.chosen, decode_token),
            "why": why,
            "sources": dict(self.sources),
        }


def distribution_to_json(
    chosen: Chosen,
    decode_token: TokenText,
    *,
    settings: Mapping[str, Any] | None,
    reference: float | None,
    n_rows: int = SHOWN_TOKENS,
) -> Json:
    """The most probable tokens and the chosen one, one row for all others, and what each filter removed.

    Args:
        chosen: The token and the distribution that it was chosen from.
        decode_token: Gives the text of an id.
        settings: The sampling settings to show, by name; None where the distribution is the model's own.
        reference: Natural log-probability of the token by the reference model in float32, None if it was not computed.
        n_rows: The number of tokens with a row of their own; the chosen one takes the last if it is less probable.
    """
    shown = _shown(chosen, n_rows)
    others = np.ones(len(chosen.distribution.logits), bool)
    others[shown] = False
    rows = [_row(chosen, id, decode_token) for id in shown]
    return {
        "rows": rows,
        "more": {
            "tokens": int(others[: chosen.n_tokens].sum()),
            "kept": int((chosen.distribution.filtered[others] > 0).sum()),
            "probability": float(chosen.distribution.probability[others].sum()),
            "filtered_probability": float(chosen.distribution.filtered[others].sum()),
        },
        "filters": [dataclasses.asdict(each) for each in chosen.distribution.removed],
        "sampling": None if settings is None else dict(settings),
        "chosen": next(row for row in rows if row["chosen"]),
        "reference": {
            "logprob": reference,
            "logprob_engine": clamped_log(float(chosen.distribution.probability[chosen.id])),
        },
    }


def _shown(chosen: Chosen, n_rows: int) -> list[int]:
    """The ids that have a row: the most probable ones, the chosen one among them, in the order of their logits."""
    best = chosen.distribution.top(n_rows, chosen.n_tokens)
    return best if chosen.id in best else [*best[: n_rows - 1], chosen.id]


def _row(chosen: Chosen, id: int, decode_token: TokenText) -> Json:
    """One token of the distribution."""
    facts = chosen.distribution.facts(id)
    return {"id": id, "token": decode_token(id), **facts._asdict(), "chosen": id == chosen.id}


def draw_to_json(chosen: Chosen, decode_token: TokenText, *, n_rows: int = SHOWN_TOKENS) -> Json:
    """The random number of a draw, and its place among the filtered probabilities laid end to end by id.

    Args:
        chosen: The token, the distribution that it was chosen from, and the draw if there was one.
        decode_token: Gives the text of an id.
        n_rows: The number of tokens that may have a segment: those with a row in `distribution_to_json`.
    """
    payload: Json = {"how": chosen.how, "token": {"id": chosen.id, "token": decode_token(chosen.id)}}
    if chosen.sampled is None:
        return payload | {"seed": None, "position": None, "number": None, "interval": None, "segments": []}
    ends = np.cumsum(chosen.distribution.filtered)
    ends /= ends[-1]

    def interval(id: int) -> list[float]:
        return [float(ends[id - 1]) if id else 0.0, float(ends[id])]

    kept = sorted(id for id in _shown(chosen, n_rows) if chosen.distribution.filtered[id] > 0)
    return payload | {
        "seed": chosen.seed,
        "position": chosen.sampled.position,
        "number": chosen.sampled.uniform,
        "interval": interval(chosen.id),
        "segments": [{"id": id, "token": decode_token(id), "interval": interval(id)} for id in kept],
    }


def sampling_to_json(sampling: Sampling) -> Json:
    """The settings; the logit bias as pairs [id, bias], with null for -inf.

    >>> sampling_to_json(Sampling(top_k=40, logit_bias={7: -math.inf}))["logit_bias"]
    [[7, None]]
    """
    bias = [[id, None if value == -math.inf else value] for id, value in sampling.logit_bias.items()]
    return {**dataclasses.asdict(sampling), "logit_bias": bias}
