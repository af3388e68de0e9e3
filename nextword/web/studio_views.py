"""What each of the studio's answers holds: numbers of one model, computed when they are asked for.

Promises, each with a test: the odds on the screen, the row of all others included, add up to 1; sliders act on logits
that are kept, so moving one reads no token again.

A text is told as `prompt` and the ids `chosen` since: a token that was drawn stays that token, however its text
would be cut. A draw is decided by seed and position, or by a `number` in [0, 1) that was set by hand.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextword.errors import ContextOverflow, InputError
from nextword.gpt import GPT, WRITING
from nextword.sample.draw import uniform
from nextword.sample.sampler import Choice, Distribution, Sampling, choose, distribute
from nextword.web.studio_asks import SETTINGS, Ask, AskOdds, AskRemove, AskWhy
from nextword.web.studio_merges import Merges

if TYPE_CHECKING:
    from nextword.model.transformer import Transformer

Json = dict[str, Any]

LEADING = 3  # tokens of each column of the table of pairs
WORDS = 24  # that are left out of a text, one at a time
KEPT = 32  # logits of so many texts: what sliders, the timeline and "back" ask for again
ROLE = 0.4  # of the attention a head gives to one kind of place, before it is named for it
_ROLES = {
    "previous": "the word before",
    "duplicate": "same word earlier",
    "induction": "copies what followed",
    "first": "rests on the first word",
}
_NO_ROLE = {"kind": None, "role": None}


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
            "definition": {"logprob": None, "logprob_engine": _log(choice.probability)},
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
            "surprise": -math.log2(max(choice.probability, 5e-324)),
            "rank": choice.rank,
            "position": choice.position,
            "number": choice.uniform,
            "by_hand": ask.number is not None,
            "written": tokenizer.decode([*ask.chosen, choice.id]),
            "ends": choice.id in tokenizer.eos_ids,
        }

    # 2 Layers

    def look(self, ask: Ask) -> Json:
        """After each layer the three likeliest tokens; where each head of the last token looks, roles where clear."""
        from nextword.trace.lenses import logit_lens
        from nextword.trace.recording import record

        recording = record(self._gpt.definition, self.ids_of(ask))
        best = logit_lens(recording)[:, : self._gpt.tokenizer.vocab_size].topk(3)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        lens = [
            [
                {"id": id, "token": self.spell(id), "probability": math.exp(value)}
                for id, value in zip(*row, strict=True)
            ]
            for row in rows
        ]
        patterns = [recording.pattern(layer).tolist() for layer in range(self._gpt.architecture.n_layers)]
        return {
            "ids": list(recording.ids),
            "tokens": [self.spell(id) for id in recording.ids],
            "lens": lens,
            "layers": [
                [{**self._roles.get((layer, head), _NO_ROLE), "pattern": row} for head, row in enumerate(heads)]
                for layer, heads in enumerate(patterns)
            ],
        }

    @cached_property
    def _roles(self) -> Mapping[tuple[int, int], Json]:
        """`kind` and `role` of the heads that have a measured one; none where the model is too small to measure."""
        from nextword.trace.lenses import head_roles

        try:
            roles = head_roles(
                self._gpt.definition, tokens=sorted(self._merges.spelled), begin=self._gpt.tokenizer.bos_id
            )
        except InputError:
            return {}
        a, named = self._gpt.architecture, {}
        for layer in range(a.n_layers):
            for head in range(a.n_heads):
                name, share = next(iter(roles.of(layer, head).items()))
                if share >= ROLE:
                    named[layer, head] = {"kind": name, "role": f"{_ROLES[name]} ({share:.0%})"}
        return named

    # 6 Why, 7 where from

    def without(self, ask: AskWhy) -> Json:
        """The token's chance after the text, and after the text without each of its last `WORDS` words.

        `change`: of log p, in nats.
        `earlier`: how many words before those were left alone. Raises InputError for no token, UnknownToken.
        """
        from nextword.trace.omission import omissions, words

        tokenizer, ids, token = self._gpt.tokenizer, self.ids_of(ask), ask.token
        if token is None:
            raise InputError("Say which token is meant, by its id.")
        tokenizer.token_bytes(token)
        pieces = [b"" if id in tokenizer.special_ids else tokenizer.token_bytes(id) for id in ids]
        spans = [(start, stop) for start, stop in words(pieces) if stop - start < len(ids)]
        found = omissions(self._gpt.engine, ids, token, spans[-WORDS:], tokenizer.vocab_size)
        before = float(self._distribution(ids, Sampling()).probability[token])
        rows = [
            {
                "from": each.start,
                "words": tokenizer.decode(ids[each.start : each.stop]),
                "after": each.probability,
                "change": _log(each.probability) - _log(before),
            }
            for each in found
        ]
        told = {"id": token, "token": self.spell(token)}
        return {"token": told, "before": before, "rows": rows, "earlier": max(len(spans) - WORDS, 0)}

    def why(self, ask: AskWhy) -> Json:
        """`why`, `lens`, `sources` and the `prompt` as web/components/README.md has them; every claim audited.

        `pairs`: how the last token goes on in the text, in the weights alone and in the model (nextword.trace.pairs).
        """
        ids = self.ids_of(ask)
        receipt = self._gpt.receipt(ids, ask.token, ask.against, count=ask.count, text=self._text).to_json()
        told = {name: receipt[name] for name in ("prompt", "why", "lens", "sources")}
        return told | {"pairs": self._pairs(ids, receipt["why"]["token"]["id"])}

    def _pairs(self, ids: list[int], token: int) -> Json:
        """The token, and those that lead by text, lift or model, by the model's odds."""
        from nextword.trace.indexed import open_indexed
        from nextword.trace.pairs import pairs, top_pairs

        tokenizer, last = self._gpt.tokenizer, ids[-1:]
        where = self._text or self._gpt.own_text()
        index = None if where is None else open_indexed(where, tokenizer=tokenizer).index
        best = top_pairs(self._gpt.definition, last, ids, index, count=LEADING, n_tokens=tokenizer.vocab_size)
        leading = [pair.ids for column in (best.probability, best.lift, best.frequency or ()) for pair in column]
        seconds = dict.fromkeys([(token,), *leading])
        found = pairs(self._gpt.definition, last, [list(second) for second in seconds], ids, index)
        found.sort(key=lambda pair: -pair.probability)
        rows = [{**pair.to_json(self.spell), "chosen": pair.ids == (token,)} for pair in found]
        a = self._gpt.architecture
        return {"first": self.spell(ids[-1]), "rows": rows, "vocab": a.vocab, "tied": a.tied}

    def receipt(self, ask: AskOdds) -> str:
        """The page that holds the receipt of the next token: drawn again as it was, or named if it was set by hand."""
        from nextword.web.receipt_page import render

        ids, sampling = self.ids_of(ask), ask.sampling()
        if ask.number is None:
            drawn = self._gpt.receipt(ids, sampling=sampling, seed=ask.seed, text=self._text, name=self.name)
            return render(drawn.to_json())
        choice = self._drawn(ask, ids, self._distribution(ids, sampling))
        return render(self._gpt.receipt(ids, choice.id, text=self._text, name=self.name).to_json())

    def remove(self, ask: AskRemove) -> Json:
        """Odds of the next token with the head and without it, both by the definition in float32."""
        from nextword.trace.edits import Scale

        ids, sampling = self.ids_of(ask), ask.sampling()
        silence = Scale(f"blocks.{ask.layer}.attention.mixed", 0.0, unit=ask.head)
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


def _log(probability: float) -> float:
    """In nats; of nothing, the least that a float can tell from it."""
    return math.log(max(probability, 5e-324))
