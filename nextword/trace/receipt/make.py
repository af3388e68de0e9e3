"""A receipt from its pieces: the token and how it was chosen, what was asked, the model, and the views a page has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nextword.base.version import __version__
from nextword.sample.draw import check_seed, new_seed, uniform
from nextword.sample.sampler import Distribution, sample_token
from nextword.sample.settings import Sampling
from nextword.trace.receipt.receipt import Chosen, Receipt, sampling_to_json

if TYPE_CHECKING:
    from nextword.corpus.index import Index
    from nextword.encode.tokenizer import Tokenizer
    from nextword.model.architecture import Architecture
    from nextword.trace.logit.explanation import Explanation
    from nextword.trace.receipt.views import Viewer


class ReceiptModel(Protocol):
    """What a receipt says of a model, and what makes its views; `nextword.GPT` is one."""

    architecture: Architecture
    tokenizer: Tokenizer

    @property
    def viewer(self) -> Viewer:
        """What makes the views of a page."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of weights and tokenizer."""


def chosen_token(
    distribution: Distribution,
    token: int | None,
    sampling: Sampling | None,
    seed: int | None,
    position: int,
    n_tokens: int,
) -> Chosen:
    """The token that a receipt is about: named, drawn or the most probable.

    Args:
        distribution: Of the next token.
        token: The id that was named, None if none was.
        sampling: How to draw; None: the most probable is taken.
        seed: Of the draw; None: a new one.
        position: The position that the token takes in the text.
        n_tokens: The number of ids that stand for tokens.

    Raises SettingError for a seed that does not fit.
    """
    if token is not None:
        return Chosen("named", token, distribution, n_tokens)
    if sampling is None or sampling.temperature == 0:
        values = distribution.logits[:n_tokens] if sampling is None else distribution.filtered
        return Chosen("greedy", int(values.argmax()), distribution, n_tokens, sampling)
    seed = new_seed() if seed is None else check_seed(seed)
    sampled = sample_token(distribution, uniform(seed, position), position)
    return Chosen("drawn", sampled.id, distribution, n_tokens, sampling, seed, sampled)


def request_to_json(
    chosen: Chosen, named: bool, contrast: int | None, text: Path | str | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What `replay` asks again, as JSON values.

    Args:
        chosen: The token and how it was chosen.
        named: Whether the token was named.
        contrast: The id that the claims are above, None for the expected logit.
        text: The folder of the text that was named.
        settings: Those of ExplainSettings, by name.
    """
    return {
        "token": chosen.id if named else None,
        "contrast": contrast,
        "sampling": None if chosen.sampling is None else sampling_to_json(chosen.sampling),
        "seed": chosen.seed,
        **settings,
        "text": None if text is None else str(text),
    }


def make_receipt(
    model: ReceiptModel,
    why: Explanation,
    chosen: Chosen,
    sources: Mapping[str, Any],
    request: Mapping[str, Any],
    index: Index | None,
    name: str,
) -> Receipt:
    """Put a receipt together; its views are made only when a page asks for them.

    Args:
        model: The model that was asked.
        why: The explanation of the token.
        chosen: The token and how it was chosen.
        sources: What the text says about it (nextword.trace.text.sources).
        request: What was asked (`request_to_json`).
        index: Of the text, None without one.
        name: What the model is called.
    """
    a, tokenizer = model.architecture, model.tokenizer
    facts = {
        "nextword": __version__,
        "model": {
            "name": name,
            "layers": a.n_layers,
            "heads": a.n_heads,
            "width": a.width,
            "vocab": tokenizer.vocab_size,
            "context": a.context,
        },
        "hashes": {**model.hashes(), "corpus": sources["text"] and sources["text"]["hash"]},
        "request": request,
    }

    def views() -> Mapping[str, Any]:
        probability = float(chosen.distribution.probability[chosen.id])
        return model.viewer.all(why.recording, chosen.id, probability, index)

    return Receipt(why, chosen, tokenizer.decode(list(why.recording.ids), skip_special=True), sources, facts, views)
