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

from nextword.api import GPT, WRITING
from nextword.encode.merges import Merges
from nextword.errors import ContextOverflow, InputError
from nextword.sample.draw import uniform
from nextword.sample.sampler import Choice, Distribution, Sampling, choose, distribute, log_chance
from nextword.web.studio.requests import SETTINGS, Ask, AskOdds, AskRemove, AskWhy

if TYPE_CHECKING:
    from nextword.model.transformer import Transformer

Json = dict[str, Any]

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
            "sampling": {name: getattr(WRITING, name) for name in SETTINGS},
        }

    def ids_of(self, ask: Ask) -> list[int]:
        """The text's tokens. Raises InputError for none, ContextOverflow, UnknownToken."""
        ids = self._gpt.tokenizer.encode(ask.prompt, begin=True) if ask.prompt else []
        for id in ask.chosen:
            self._gpt.tokenizer.token_bytes(id)
        if not ids:
            raise InputError("There is nothing to continue yet: type at least one character.")
        ids += ask.chosen
        room = self._gpt.architecture.context
        if len(ids) > room:
            raise ContextOverflow(f"The text is {len(ids):,} tokens, but the model's context is {room:,}; shorten it.")
        return ids

    @property
    def definition(self) -> Transformer:
        """The model's equations in float32."""
        return self._gpt.definition

    def is_like(self, other: Views) -> bool:
        """Whether both cut text alike and compute the same equations, so that their parts can be put side by side."""
        alike = self._gpt.tokenizer.hash == other._gpt.tokenizer.hash
        return alike and self._gpt.architecture == other._gpt.architecture

    def spell(self, id: int) -> str:
        """A token's text."""
        return self._gpt.tokenizer.token_text(id)

    @cached_property
    def spellings(self) -> list[bytes]:
        """The bytes of every token; a special token's name where it has none."""
        tokenizer = self._gpt.tokenizer
        return [tokenizer.token_bytes(id) or self.spell(id).encode() for id in range(tokenizer.vocab_size)]

    def probabilities(self, ask: Ask) -> npt.NDArray[np.float64]:
        """The model's own odds of every token to come next, [vocab]."""
        odds = self._distribution(self.ids_of(ask), Sampling()).probability[: self._gpt.tokenizer.vocab_size]
        shares: npt.NDArray[np.float64] = odds / odds.sum()
        return shares

    # 1 Tokens

    def tokens(self, ask: Ask) -> Json:
        """Ids, texts and bytes, and for each token of the prompt the merges that made it, from single bytes on.

        `marks`: whether a token is no text but a mark, such as the one that begins a text.
        """
        tokenizer = self._gpt.tokenizer
        ids = self.ids_of(ask)
        return {
            "text": ask.prompt,
            "ids": ids,
            "tokens": [self.spell(id) for id in ids],
            "bytes": [list(tokenizer.token_bytes(id)) for id in ids],
            "marks": [id in tokenizer.special_ids for id in ids],
            "merges": [self._merges.of(id) for id in ids[: len(ids) - len(ask.chosen)]],
        }

    # 3 Odds, 4 the draw, 5 the word

    def _distribution(self, ids: list[int], sampling: Sampling) -> Distribution:
        """Of the next token; the logits of the texts asked for last are kept."""
        key = tuple(ids)
        if key not in self._logits:
            self._logits[key] = self._gpt.predict(ids).odds.logits
        self._logits.move_to_end(key)
        while len(self._logits) > KEPT:
            self._logits.popitem(last=False)
        return distribute(self._logits[key], sampling, ids, n_tokens=self._gpt.tokenizer.vocab_size)

    def _drawn(self, ask: AskOdds, ids: list[int], odds: Distribution) -> Choice:
        number = uniform(ask.seed, len(ids)) if ask.number is None else ask.number
        return choose(odds, number, len(ids))

    def odds(self, ask: AskOdds) -> Json:
        """`odds` and `draw` as web/components/README.md has them; `draw.by_hand` if the number was set.

        `spelled`: whether the drawn token is text, and not a mark such as the end's.
        """
        ids, sampling = self.ids_of(ask), ask.sampling()
        odds = self._distribution(ids, sampling)
        choice = self._drawn(ask, ids, odds)
        told = self._told(odds, sampling, ask.rows, choice)
        draw, spelled = self._draw(ask, odds, choice, told["rows"]), choice.id not in self._gpt.tokenizer.special_ids
        return {"ids": ids, "odds": told, "draw": draw, "spelled": spelled}

    def _told(self, odds: Distribution, sampling: Sampling, count: int, choice: Choice) -> Json:
        shown = np.argsort(-odds.logits[: self._gpt.tokenizer.vocab_size], kind="stable")[:count].tolist()
        if choice.id not in shown:
            shown.append(choice.id)
        others = np.ones(len(odds.logits), bool)
        others[shown] = False
        rows = [self._row(odds, id, choice.id) for id in shown]
        return {
            "rows": rows,
            "more": {
                "tokens": int(others[: self._gpt.tokenizer.vocab_size].sum()),
                "kept": int((odds.filtered[others] > 0).sum()),
                "probability": float(odds.probability[others].sum()),
                "filtered_probability": float(odds.filtered[others].sum()),
            },
            "filters": [{"filter": r.filter, "tokens": r.tokens, "mass": r.mass} for r in odds.removed],
            "sampling": {name: getattr(sampling, name) for name in SETTINGS},
            "chosen": next(row for row in rows if row["chosen"]),
            "definition": {"logprob": None, "logprob_engine": log_chance(choice.probability)},
        }

    def _row(self, odds: Distribution, id: int, chosen: int) -> Json:
        return {
            "id": id,
            "token": self.spell(id),
            "logit": float(odds.logits[id]),
            "probability": float(odds.probability[id]),
            "filtered_probability": float(odds.filtered[id]),
            "removed_by": odds.remover(id),
            "rank": int((odds.logits > odds.logits[id]).sum()) + 1,
            "chosen": id == chosen,
        }

    def _draw(self, ask: AskOdds, odds: Distribution, choice: Choice, rows: list[Json]) -> Json:
        ends = np.cumsum(odds.filtered) / odds.filtered.sum()

        def interval(id: int) -> list[float]:
            return [float(ends[id - 1]) if id else 0.0, float(ends[id])]

        kept = sorted(row["id"] for row in rows if row["filtered_probability"] > 0)
        greedy = ask.temperature == 0
        return {
            "how": "greedy" if greedy else "drawn",
            "token": {"id": choice.id, "token": self.spell(choice.id)},
            "seed": ask.seed,
            "position": choice.position,
            "number": choice.uniform,
            "by_hand": ask.number is not None,
            "interval": interval(choice.id),
            "segments": [{"id": id, "token": self.spell(id), "interval": interval(id)} for id in kept],
        }

    def next(self, ask: AskOdds) -> Json:
        """One drawn token; `surprise` is what it costs in bits by the model's own odds, `ends` if it ends the text."""
        ids, tokenizer = self.ids_of(ask), self._gpt.tokenizer
        choice = self._drawn(ask, ids, self._distribution(ids, ask.sampling()))
        return {
            "id": choice.id,
            "token": self.spell(choice.id),
            "probability": choice.probability,
            "surprise": choice.surprise,
            "rank": choice.rank,
            "position": choice.position,
            "number": choice.uniform,
            "by_hand": ask.number is not None,
            "written": tokenizer.decode([*ask.chosen, choice.id]),
            "ends": choice.id in tokenizer.eos_ids,
        }

    # 2 Layers

    def look(self, ask: Ask) -> Json:
        """Where each head of the last token looks, and the favourites after each layer (trace/receipt/views.py)."""
        from nextword.trace.recording import record

        return self._gpt.viewer.attention(record(self._gpt.definition, self.ids_of(ask)))

    # 6 Why, 7 where from

    def without(self, ask: AskWhy) -> Json:
        """The token's chance with and without each of the last words (trace/receipt/views.py).

        Raises InputError for no token, UnknownToken.
        """
        if ask.token is None:
            raise InputError("Say which token is meant, by its id.")
        ids = self.ids_of(ask)
        self._gpt.tokenizer.token_bytes(ask.token)
        chance = self._distribution(ids, Sampling()).probability[ask.token]
        return self._gpt.viewer.without(ids, ask.token, float(chance))

    def why(self, ask: AskWhy) -> Json:
        """`why`, `lens`, `sources`, `pairs`, `prompt` as web/components/README.md has them; every claim audited."""
        ids = self.ids_of(ask)
        receipt = self._gpt.receipt(ids, ask.token, ask.against, count=ask.count, text=self._text).to_json()
        told = {name: receipt[name] for name in ("prompt", "why", "lens", "sources")}
        text = self._gpt.indexed(self._text)
        index = None if text is None else text.index
        return told | {"pairs": self._gpt.viewer.pairs(ids, receipt["why"]["token"]["id"], index)}

    def receipt(self, ask: AskOdds) -> str:
        """The page that holds the receipt of the next token: drawn again as it was, or named if it was set by hand."""
        from nextword.web.pages.receipt import render

        ids, sampling = self.ids_of(ask), ask.sampling()
        if ask.number is None:
            drawn = self._gpt.receipt(ids, sampling=sampling, seed=ask.seed, text=self._text, name=self.name)
            return render(drawn.with_views())
        choice = self._drawn(ask, ids, self._distribution(ids, sampling))
        return render(self._gpt.receipt(ids, choice.id, text=self._text, name=self.name).with_views())

    def remove(self, ask: AskRemove) -> Json:
        """Odds of the next token with the head and without it, both by the definition in float32."""
        from nextword.trace.interventions import Scale

        ids, sampling = self.ids_of(ask), ask.sampling()
        silence = Scale(f"blocks.{ask.layer}.attention.z", 0.0, unit=ask.head)
        before, after = (self._gpt.with_edit(*edits).predict(ids, sampling).odds for edits in ((), (silence,)))
        n = self._gpt.tokenizer.vocab_size
        shown = list(dict.fromkeys(int(id) for odds in (before, after) for id in np.argsort(-odds.logits[:n])[:6]))
        rows: list[Json] = [
            {
                "id": id,
                "token": self.spell(id),
                "before": float(before.probability[id]),
                "after": float(after.probability[id]),
            }
            for id in shown
        ]
        rest = {side: 1.0 - sum(row[side] for row in rows) for side in ("before", "after")}
        return {"layer": ask.layer, "head": ask.head, "rows": rows, "rest": rest, "more": n - len(rows)}
