"""One model as the studio shows it: its text and tokens, the distribution of the next token, the draw.

Promises, each with a test: the probabilities on the screen, the row of all others included, add up to 1; sliders act on
logits that are kept, so moving one reads no token again.

A text is a `prompt` and the ids `chosen` since: a token that was drawn stays that token, whatever tokens its text
would be cut into. A draw is decided by seed and position, or by a `number` in [0, 1) that was set by hand.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextword.api import GPT
from nextword.base.settings import settings_of
from nextword.base.types import Json
from nextword.encode.merges import Merges
from nextword.errors import ContextOverflow, InputError
from nextword.predict.engine import Logits
from nextword.sample.draw import uniform
from nextword.sample.sampler import Distribution, SampledToken, distribute, sample_token
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling
from nextword.trace.receipt.receipt import Chosen, How, distribution_to_json, draw_to_json
from nextword.web.studio.requests import SLIDERS, DrawRequest, TextRequest

KEPT_TEXTS = 32  # texts: whose logits are kept for the sliders, the timeline and "back"


class Views:
    """Answers about one model, as JSON values. Not to be called by two threads at once, but for `model` and `tokens`.

    Attributes:
        gpt: The model.
        name: What the page calls the model.
        text: A folder that `nextword index` made, None for the model's own text, if it has one.
    """

    def __init__(self, gpt: GPT, name: str | None = None, text: Path | None = None) -> None:
        """Show a model.

        Args:
            gpt: The model.
            name: What the page calls it, None: its file.
            text: A folder that `nextword index` made, for "where from"; None: the model's own, if it has one.
        """
        self.gpt, self.name, self.text = gpt, name or gpt.path.stem, text
        self._merges = Merges(gpt.tokenizer)
        self._logits: OrderedDict[tuple[int, ...], Logits] = OrderedDict()

    def model(self) -> Json:
        """Name, sizes and default settings: what the page says about the model before any text is typed."""
        a = self.gpt.architecture
        return {
            "name": self.name,
            "layers": a.n_layers,
            "heads": a.n_heads,
            "width": a.width,
            "vocab": self.gpt.tokenizer.vocab_size,
            "context": a.context,
            "sliders": [_slider(name) for name in SLIDERS],
        }

    def ids_of(self, request: TextRequest) -> list[int]:
        """The ids of the text's tokens.

        Raises:
            InputError: The prompt is empty.
            ContextOverflow: The text is longer than the model's context.
            UnknownToken: A chosen id is outside the vocabulary.
        """
        ids = self.gpt.tokenizer.encode(request.prompt, begin=True) if request.prompt else []
        for id in request.chosen:
            self.gpt.tokenizer.token_bytes(id)
        if not ids:
            raise InputError("There is nothing to continue yet: type at least one character.")
        ids += request.chosen
        room = self.gpt.architecture.context
        if len(ids) > room:
            raise ContextOverflow(f"The text is {len(ids):,} tokens, but the model's context is {room:,}; shorten it.")
        return ids

    def is_like(self, other: Views) -> bool:
        """Whether both models have one tokenizer and one architecture, so that their parts can be compared."""
        same_tokenizer = self.gpt.tokenizer.hash == other.gpt.tokenizer.hash
        return same_tokenizer and self.gpt.architecture == other.gpt.architecture

    def decode_token(self, id: int) -> str:
        """A token's text. Raises UnknownToken."""
        return self.gpt.tokenizer.token_text(id)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every token, by id; of a special token that has none, its name."""
        tokenizer = self.gpt.tokenizer
        return [tokenizer.token_bytes(id) or self.decode_token(id).encode() for id in range(tokenizer.vocab_size)]

    # 1 Tokens

    def tokens(self, request: TextRequest) -> Json:
        """Ids, texts and bytes, and for each token of the prompt the merges that made it, from single bytes on.

        `marks`: for each token whether it is special, such as the one that begins a text, and no text itself.
        """
        tokenizer = self.gpt.tokenizer
        ids = self.ids_of(request)
        return {
            "text": request.prompt,
            "ids": ids,
            "tokens": [self.decode_token(id) for id in ids],
            "bytes": [list(tokenizer.token_bytes(id)) for id in ids],
            "marks": [id in tokenizer.special_ids for id in ids],
            "merges": [self._merges.of(id) for id in ids[: len(ids) - len(request.chosen)]],
        }

    # 3 Probabilities, 4 the draw, 5 the word

    def next_distribution(self, ids: list[int], sampling: Sampling) -> Distribution:
        """The distribution of the token after `ids`; the logits of the `KEPT_TEXTS` texts asked about last are kept."""
        key = tuple(ids)
        if key not in self._logits:
            self._logits[key] = self.gpt.predict(ids).distribution.logits
        self._logits.move_to_end(key)
        while len(self._logits) > KEPT_TEXTS:
            self._logits.popitem(last=False)
        return distribute(self._logits[key], sampling, ids, n_tokens=self.gpt.tokenizer.vocab_size)

    def probabilities(self, request: TextRequest) -> npt.NDArray[np.float64]:
        """The model's own probability of every token to come next, float64 [vocab]."""
        probability = self.next_distribution(self.ids_of(request), Sampling()).probability
        known = probability[: self.gpt.tokenizer.vocab_size]
        normed: npt.NDArray[np.float64] = known / known.sum()
        return normed

    def sampled(self, request: DrawRequest, ids: list[int], distribution: Distribution) -> SampledToken:
        """The token that is drawn after `ids`.

        Args:
            request: Its `number` decides, or, where that is None, its `seed` with the position.
            ids: The text.
            distribution: Of the next token, under the request's settings.
        """
        number = uniform(request.seed, len(ids)) if request.number is None else request.number
        return sample_token(distribution, number, len(ids))

    def distribution(self, request: DrawRequest) -> Json:
        """`distribution` and `draw` as web/pages/elements/README.md has them; `draw.by_hand` if the number was set.

        `is_text`: whether the drawn token is text, and not a special token such as the one that ends a text. A drawn
        token that is not among the most probable `rows` has a row besides.
        """
        ids, sampling, tokenizer = self.ids_of(request), request.sampling(), self.gpt.tokenizer
        distribution = self.next_distribution(ids, sampling)
        sampled = self.sampled(request, ids, distribution)
        how: How = "greedy" if request.temperature == 0 else "drawn"
        chosen = Chosen(how, sampled.id, distribution, tokenizer.vocab_size, sampling, request.seed, sampled)
        n_rows = request.rows + (sampled.id not in distribution.top(request.rows, tokenizer.vocab_size))
        settings = {name: getattr(sampling, name) for name in SLIDERS}
        draw = draw_to_json(chosen, self.decode_token, n_rows=n_rows)
        return {
            "ids": ids,
            "distribution": distribution_to_json(
                chosen, self.decode_token, settings=settings, reference=None, n_rows=n_rows
            ),
            "draw": {**draw, "by_hand": request.number is not None},
            "is_text": sampled.id not in tokenizer.special_ids,
        }

    def next(self, request: DrawRequest) -> Json:
        """One drawn token; `surprisal` in bits by the model's own distribution, `ends` if the token ends the text."""
        ids, tokenizer = self.ids_of(request), self.gpt.tokenizer
        sampled = self.sampled(request, ids, self.next_distribution(ids, request.sampling()))
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


def _slider(name: str) -> Json:
    """A setting as the page's control for it: ends, step, the value it begins at, and what it does."""
    setting, slider = settings_of(Sampling)[name], SLIDERS[name]
    off, word = slider.off
    ends = {"minimum": slider.minimum, "maximum": slider.maximum, "step": slider.step}
    return {"name": name, **ends, "value": getattr(DEFAULT_SAMPLING, name), "off": [off, word], "doc": setting.doc}
