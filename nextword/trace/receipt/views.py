"""What a page shows beside the receipt of a token: merges, attention, words left out, bigrams; as JSON values.

Promise, with a test: the size of the views in a receipt is bounded, however long its prompt is. Attention weights are
rounded to `DIGITS` decimals, because there is one for every head and place; nothing else is rounded.
`web/pages/elements/README.md` has every key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from nextword.base.types import Json
from nextword.corpus.index import Index
from nextword.encode.merges import Merges
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.predict.engine import Engine
from nextword.sample.sampler import clamped_log
from nextword.trace.logit.lens import logit_lens
from nextword.trace.receipt.leave_one_out import leave_one_out, word_spans
from nextword.trace.recording import Recording
from nextword.trace.weights.bigrams import bigrams, top_bigrams
from nextword.trace.weights.heads import head_roles

SHOWN_PLACES = 24  # tokens: of the text that are shown one by one: the first and the last ones
LEFT_OUT_WORDS = 24  # words: that are left out of a text, one at a time
LEADING = 3  # tokens: in each column of the table of bigrams
LENS_TOKENS = 3  # tokens: that are shown after each layer
ROLE = 0.4  # attention weight: that a head must give to one kind of place to be named for it
DIGITS = 5  # decimals: of attention weights
_NO_ROLE = {"kind": None, "share": None}


class Viewer:
    """The views of one model.

    Args:
        reference_model: The model's equations in float32.
        engine: The engine that the model writes with.
        tokenizer: Of the model.
    """

    def __init__(self, reference_model: Transformer, engine: Engine, tokenizer: Tokenizer) -> None:
        self._reference_model, self._engine, self._tokenizer = reference_model, engine, tokenizer
        self._merges = Merges(tokenizer)

    def all(self, recording: Recording, token: int, probability: float, index: Index | None) -> Json:
        """Every view of a token, by its name.

        Args:
            recording: Of the prompt.
            token: Id of the token after it.
            probability: Of the token, by the engine.
            index: Of the text whose bigrams are counted, None without one.
        """
        ids = list(recording.ids)
        return {
            "merges": self._merges.of_last(ids),
            "attention": self.attention(recording),
            "leave_one_out": self.leave_one_out(ids, token, probability),
            "bigrams": self.bigrams(ids, token, index),
        }

    def attention(self, recording: Recording) -> Json:
        """The attention of each head at the last token, heads' roles, and the top tokens after each layer.

        `tokens` are the first and the last ones; in a long text one place, null, stands for the `between` of them.
        """
        n, ids, n_layers = self._tokenizer.vocab_size, recording.ids, recording.model.architecture.n_layers
        best = logit_lens(recording)[:, :n].topk(min(LENS_TOKENS, n))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tokens: list[str | None] = [self._decode_token(id) for id in ids]
        patterns = [recording.pattern(layer).tolist() for layer in range(n_layers)]
        return {
            "between": max(len(ids) - SHOWN_PLACES, 0),
            "tokens": _folded(tokens, lambda _: None),
            "lens": [[self._top1(*each) for each in zip(*row, strict=True)] for row in rows],
            "layers": [
                [
                    {**self.roles.get((layer, head), _NO_ROLE), "pattern": _rounded(row)}
                    for head, row in enumerate(heads)
                ]
                for layer, heads in enumerate(patterns)
            ],
        }

    @cached_property
    def roles(self) -> Mapping[tuple[int, int], Json]:
        """For heads that have a role, its `kind` and the mean attention weight (`share`) of places of that kind.

        There are none where the model is too small to measure.
        """
        try:
            pool = sorted(self._merges.spelled)
            roles = head_roles(self._reference_model, tokens=pool, begin=self._tokenizer.bos_id)
        except InputError:
            return {}
        a, named = self._reference_model.architecture, {}
        for layer in range(a.n_layers):
            for head in range(a.n_heads):
                name, weight = next(iter(roles.of(layer, head).items()))
                if weight >= ROLE:
                    named[layer, head] = {"kind": name, "share": weight}
        return named

    def leave_one_out(self, ids: Sequence[int], token: int, probability: float) -> Json:
        """The token's probability after the text without each of its last words, beside that after all of it.

        `change` is that of log p, in nats, `earlier` the number of words before those, which are not left out.

        Args:
            ids: Token ids of the text.
            token: Id of the token after it.
            probability: Of the token after the whole text, by the engine.
        """
        tokenizer = self._tokenizer
        pieces = [b"" if id in tokenizer.special_ids else tokenizer.token_bytes(id) for id in ids]
        spans = [(start, stop) for start, stop in word_spans(pieces) if stop - start < len(ids)]
        rows = [
            {
                "from": each.start,
                "words": tokenizer.decode(ids[each.start : each.stop]),
                "after": each.probability,
                "change": clamped_log(each.probability) - clamped_log(probability),
            }
            for each in leave_one_out(self._engine, ids, token, spans[-LEFT_OUT_WORDS:], tokenizer.vocab_size)
        ]
        payload = {"id": token, "token": self._decode_token(token)}
        return {"token": payload, "before": probability, "rows": rows, "earlier": max(len(spans) - LEFT_OUT_WORDS, 0)}

    def bigrams(self, ids: Sequence[int], token: int, index: Index | None) -> Json:
        """What follows the last token in the text, in the weights alone and in the model (weights/bigrams.py).

        There is a row for the token, and for those that lead by frequency, lift or probability, most probable first.

        Args:
            ids: Token ids of the prompt.
            token: Id of the token after it.
            index: Of the text that is counted, None without one.
        """
        last, n = ids[-1:], self._tokenizer.vocab_size
        best = top_bigrams(self._reference_model, last, ids, index, count=LEADING, n_tokens=n)
        found = {
            bigram.ids: bigram for column in (best.probability, best.lift, best.frequency or ()) for bigram in column
        }
        chosen = found.pop((token,), None) or bigrams(self._reference_model, last, [[token]], ids, index)[0]
        payload = sorted([chosen, *found.values()], key=lambda bigram: -bigram.probability)
        rows = [{**bigram.to_json(self._decode_token), "chosen": bigram is chosen} for bigram in payload]
        a = self._reference_model.architecture
        return {"first": self._decode_token(ids[-1]), "rows": rows, "vocab": a.vocab, "tied": a.tied}

    def _top1(self, id: int, logprob: float) -> Json:
        return {"id": id, "token": self._decode_token(id), "probability": math.exp(logprob)}

    def _decode_token(self, id: int) -> str:
        return self._tokenizer.token_text(id)


def _rounded(pattern: Sequence[float]) -> list[float]:
    """Attention weights of the places that are shown, rounded."""
    return [round(weight, DIGITS) for weight in _folded(pattern, sum)]


def _folded(places: Sequence[Any], together: Any) -> list[Any]:
    """The first place, one for all between, and the last ones; all of them where there are few."""
    if len(places) <= SHOWN_PLACES:
        return list(places)
    return [places[0], together(places[1 : 1 - SHOWN_PLACES]), *places[1 - SHOWN_PLACES :]]
