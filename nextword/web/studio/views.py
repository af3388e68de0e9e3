"""What each of the studio's answers holds: numbers of one model, computed when they are asked for.

Promises, each with a test: the odds on the screen, the row of all others included, add up to 1; sliders act on logits
that are kept, so moving one reads no token again.

A text is told as `prompt` and the ids `chosen` since: a token that was drawn stays that token, however its text
would be cut. A draw is decided by seed and position, or by a `number` in [0, 1) that was set by hand.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextword.api import GPT
from nextword.base.settings import settings_of
from nextword.base.types import Json
from nextword.encode.merges import Merges
from nextword.errors import ContextOverflow, InputError
from nextword.sample.draw import uniform
from nextword.sample.sampler import Distribution, SampledToken, clamped_log, distribute, sample_token
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling
from nextword.web.studio.requests import SLIDERS, AblationRequest, DrawRequest, TextRequest, WhyRequest

if TYPE_CHECKING:
    from nextword.model.transformer import Transformer


KEPT = 32  # logits of so many texts: what sliders, the timeline and "back" ask for again


class Views:
    """Answers as JSON values. Not to be called by two threads at once, but for `model` and `tokens`."""

    def __init__(self, gpt: GPT, name: str | None = None, text: Path | None = None) -> None:
        """text: a folder that `nextword index` made, for "where from"; None: the model's own, if it has one."""
        self._gpt, self.name, self._text = gpt, name or gpt.path.stem, text
        self._merges = Merges(gpt.tokenizer)
        self._logits: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def model(self) -> Json:
        """What the page says about the model before anything is asked."""
        a = self._gpt.architecture
        return {
            "name": self.name,
            "layers": a.n_layers,
            "heads": a.n_heads,
            "width": a.width,
            "vocab": self._gpt.tokenizer.vocab_size,
            "context": a.context,
            "sliders": [_slider(name) for name in SLIDERS],
        }

    def ids_of(self, request: TextRequest) -> list[int]:
        """The text's tokens. Raises InputError for none, ContextOverflow, UnknownToken."""
        ids = self._gpt.tokenizer.encode(request.prompt, begin=True) if request.prompt else []
        for id in request.chosen:
            self._gpt.tokenizer.token_bytes(id)
        if not ids:
            raise InputError("There is nothing to continue yet: type at least one character.")
        ids += request.chosen
        room = self._gpt.architecture.context
        if len(ids) > room:
            raise ContextOverflow(f"The text is {len(ids):,} tokens, but the model's context is {room:,}; shorten it.")
        return ids

    @property
    def reference_model(self) -> Transformer:
        """The model's equations in float32."""
        return self._gpt.reference_model

    def is_like(self, other: Views) -> bool:
        """Whether both cut text alike and compute the same equations, so that their parts can be put side by side."""
        alike = self._gpt.tokenizer.hash == other._gpt.tokenizer.hash
        return alike and self._gpt.architecture == other._gpt.architecture

    def decode_token(self, id: int) -> str:
        """A token's text."""
        return self._gpt.tokenizer.token_text(id)

    @cached_property
    def spellings(self) -> list[bytes]:
        """The bytes of every token; a special token's name where it has none."""
        tokenizer = self._gpt.tokenizer
        return [tokenizer.token_bytes(id) or self.decode_token(id).encode() for id in range(tokenizer.vocab_size)]

    def probabilities(self, request: TextRequest) -> npt.NDArray[np.float64]:
        """The model's own odds of every token to come next, [vocab]."""
        distribution = self._distribution(self.ids_of(request), Sampling()).probability[
            : self._gpt.tokenizer.vocab_size
        ]
        shares: npt.NDArray[np.float64] = distribution / distribution.sum()
        return shares

    # 1 Tokens

    def tokens(self, request: TextRequest) -> Json:
        """Ids, texts and bytes, and for each token of the prompt the merges that made it, from single bytes on.

        `marks`: whether a token is no text but a mark, such as the one that begins a text.
        """
        tokenizer = self._gpt.tokenizer
        ids = self.ids_of(request)
        return {
            "text": request.prompt,
            "ids": ids,
            "tokens": [self.decode_token(id) for id in ids],
            "bytes": [list(tokenizer.token_bytes(id)) for id in ids],
            "marks": [id in tokenizer.special_ids for id in ids],
            "merges": [self._merges.of(id) for id in ids[: len(ids) - len(request.chosen)]],
        }

    # 3 Odds, 4 the draw, 5 the word

    def _distribution(self, ids: list[int], sampling: Sampling) -> Distribution:
        """Of the next token; the logits of the texts asked for last are kept."""
        key = tuple(ids)
        if key not in self._logits:
            self._logits[key] = self._gpt.predict(ids).distribution.logits
        self._logits.move_to_end(key)
        while len(self._logits) > KEPT:
            self._logits.popitem(last=False)
        return distribute(self._logits[key], sampling, ids, n_tokens=self._gpt.tokenizer.vocab_size)

    def _drawn(self, request: DrawRequest, ids: list[int], distribution: Distribution) -> SampledToken:
        number = uniform(request.seed, len(ids)) if request.number is None else request.number
        return sample_token(distribution, number, len(ids))

    def distribution(self, request: DrawRequest) -> Json:
        """`distribution` and `draw` as web/pages/elements/README.md has them; `draw.by_hand` if the number was set.

        `is_text`: whether the drawn token is text, and not a mark such as the end's.
        """
        ids, sampling = self.ids_of(request), request.sampling()
        distribution = self._distribution(ids, sampling)
        sampled = self._drawn(request, ids, distribution)
        payload = self._payload(distribution, sampling, request.rows, sampled)
        draw, is_text = (
            self._draw(request, distribution, sampled, payload["rows"]),
            sampled.id not in self._gpt.tokenizer.special_ids,
        )
        return {"ids": ids, "distribution": payload, "draw": draw, "is_text": is_text}

    def _payload(self, distribution: Distribution, sampling: Sampling, count: int, sampled: SampledToken) -> Json:
        shown = np.argsort(-distribution.logits[: self._gpt.tokenizer.vocab_size], kind="stable")[:count].tolist()
        if sampled.id not in shown:
            shown.append(sampled.id)
        others = np.ones(len(distribution.logits), bool)
        others[shown] = False
        rows = [self._row(distribution, id, sampled.id) for id in shown]
        return {
            "rows": rows,
            "more": {
                "tokens": int(others[: self._gpt.tokenizer.vocab_size].sum()),
                "kept": int((distribution.filtered[others] > 0).sum()),
                "probability": float(distribution.probability[others].sum()),
                "filtered_probability": float(distribution.filtered[others].sum()),
            },
            "filters": [{"filter": r.filter, "tokens": r.tokens, "mass": r.mass} for r in distribution.removed],
            "sampling": {name: getattr(sampling, name) for name in SLIDERS},
            "chosen": next(row for row in rows if row["chosen"]),
            "reference": {"logprob": None, "logprob_engine": clamped_log(sampled.probability)},
        }

    def _row(self, distribution: Distribution, id: int, chosen: int) -> Json:
        return {
            "id": id,
            "token": self.decode_token(id),
            "logit": float(distribution.logits[id]),
            "probability": float(distribution.probability[id]),
            "filtered_probability": float(distribution.filtered[id]),
            "removed_by": distribution.remover(id),
            "rank": int((distribution.logits > distribution.logits[id]).sum()) + 1,
            "chosen": id == chosen,
        }

    def _draw(self, request: DrawRequest, distribution: Distribution, sampled: SampledToken, rows: list[Json]) -> Json:
        ends = np.cumsum(distribution.filtered) / distribution.filtered.sum()

        def interval(id: int) -> list[float]:
            return [float(ends[id - 1]) if id else 0.0, float(ends[id])]

        kept = sorted(row["id"] for row in rows if row["filtered_probability"] > 0)
        greedy = request.temperature == 0
        return {
            "how": "greedy" if greedy else "drawn",
            "token": {"id": sampled.id, "token": self.decode_token(sampled.id)},
            "seed": request.seed,
            "position": sampled.position,
            "number": sampled.uniform,
            "by_hand": request.number is not None,
            "interval": interval(sampled.id),
            "segments": [{"id": id, "token": self.decode_token(id), "interval": interval(id)} for id in kept],
        }

    def next(self, request: DrawRequest) -> Json:
        """One drawn token; `surprisal` is what it costs in bits by the model's own odds, `ends` if it ends the text."""
        ids, tokenizer = self.ids_of(request), self._gpt.tokenizer
        sampled = self._drawn(request, ids, self._distribution(ids, request.sampling()))
        return {
            "id": sampled.id,
            "token": self.decode_token(sampled.id),
            "probability": sampled.probability,
            "surprisal": sampled.surprisal,
            "rank": sampled.rank,
            "position": sampled.position,
            "number": sampled.uniform,
            "by_hand": request.number is not None,
            "written": tokenizer.decode([*request.chosen, sampled.id]),
            "ends": sampled.id in tokenizer.eos_ids,
        }

    # 2 Layers

    def look(self, request: TextRequest) -> Json:
        """Where each head of the last token looks, and the favourites after each layer (trace/receipt/views.py)."""
        from nextword.trace.recording import record

        return self._gpt.viewer.attention(record(self._gpt.reference_model, self.ids_of(request)))

    # 6 Why, 7 where from

    def leave_one_out(self, request: WhyRequest) -> Json:
        """The token's chance with and without each of the last words (trace/receipt/views.py).

        Raises InputError for no token, UnknownToken.
        """
        if request.token is None:
            raise InputError("Say which token is meant, by its id.")
        ids = self.ids_of(request)
        self._gpt.tokenizer.token_bytes(request.token)
        probability = self._distribution(ids, Sampling()).probability[request.token]
        return self._gpt.viewer.leave_one_out(ids, request.token, float(probability))

    def why(self, request: WhyRequest) -> Json:
        """`why`, `lens`, `sources`, `bigrams`, `prompt` as the elements take them; every claim audited."""
        ids = self.ids_of(request)
        receipt = self._gpt.receipt(
            ids, request.token, request.contrast, count=request.count, text=self._text
        ).to_json()
        payload = {name: receipt[name] for name in ("prompt", "why", "lens", "sources")}
        text = self._gpt.indexed(self._text)
        index = None if text is None else text.index
        return payload | {"bigrams": self._gpt.viewer.bigrams(ids, receipt["why"]["token"]["id"], index)}

    def receipt(self, request: DrawRequest) -> str:
        """The page that holds the receipt of the next token: drawn again as it was, or named if it was set by hand."""
        from nextword.web.pages.receipt import render

        ids, sampling = self.ids_of(request), request.sampling()
        if request.number is None:
            drawn = self._gpt.receipt(ids, sampling=sampling, seed=request.seed, text=self._text, name=self.name)
            return render(drawn.with_views())
        sampled = self._drawn(request, ids, self._distribution(ids, sampling))
        return render(self._gpt.receipt(ids, sampled.id, text=self._text, name=self.name).with_views())

    def ablate(self, request: AblationRequest) -> Json:
        """Odds of the next token with the head and without it, both by the definition in float32."""
        from nextword.trace.interventions import Scale

        ids, sampling = self.ids_of(request), request.sampling()
        silence = Scale(f"blocks.{request.layer}.attention.z", 0.0, unit=request.head)
        before, after = (self._gpt.with_edit(*edits).predict(ids, sampling).distribution for edits in ((), (silence,)))
        n = self._gpt.tokenizer.vocab_size
        shown = list(
            dict.fromkeys(
                int(id) for distribution in (before, after) for id in np.argsort(-distribution.logits[:n])[:6]
            )
        )
        rows: list[Json] = [
            {
                "id": id,
                "token": self.decode_token(id),
                "before": float(before.probability[id]),
                "after": float(after.probability[id]),
            }
            for id in shown
        ]
        rest = {side: 1.0 - sum(row[side] for row in rows) for side in ("before", "after")}
        return {"layer": request.layer, "head": request.head, "rows": rows, "rest": rest, "more": n - len(rows)}


def _slider(name: str) -> Json:
    """A setting as the page's control for it: ends, step, the value it begins at, and what it does."""
    setting, slider = settings_of(Sampling)[name], SLIDERS[name]
    off, word = slider.off
    ends = {"minimum": slider.minimum, "maximum": slider.maximum, "step": slider.step}
    return {"name": name, **ends, "value": getattr(DEFAULT_SAMPLING, name), "off": [off, word], "doc": setting.doc}
