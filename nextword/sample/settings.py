"""How the next token is chosen: the settings, their defaults, their ranges and what each means.

The one list of them: the options of `predict`, `generate` and `explain`, the fields of the API's requests and the
page's sliders are made from it (nextword.base.settings). It needs no numpy, so that help is quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nextword.base.settings import Slider, check_settings, setting

LARGEST_SHIFT = 1e6  # logits: of a penalty or a bias; far more than decides any draw, far less than overflows


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. The defaults change nothing: a draw from the model's own probabilities.

    Order and meaning are those of transformers' `generate`; presence and frequency penalties are OpenAI's. Sources:
    top-k Fan et al. (2018), top-p Holtzman et al. (2020), min-p Nguyen et al. (2024), typical Meister et al. (2023),
    repetition penalty Keskar et al. (2019).

    Raises SettingError for a value out of its range.

    >>> Sampling(temperature=0.7, top_k=40).top_p
    1.0
    """

    temperature: float = setting(
        1.0,
        "0 (greedy) or at least 1e-6",
        lambda value: value == 0 or 1e-6 <= value < math.inf,
        slider=Slider(0, 2, 0.05, (0, "0, greedy")),
    )
    """Divides the logits: below 1 the most probable tokens win more often, above 1 the probabilities even out; 0 always
    takes the most probable token."""
    top_k: int = setting(
        0,
        "0 (off) or a positive whole number",
        lambda value: value == int(value) >= 0,
        slider=Slider(0, 100, 1, (0, "off")),
    )
    """Keep the K most probable tokens; 0 keeps all."""
    top_p: float = setting(
        1.0, "above 0 and at most 1", lambda value: 0 < value <= 1, slider=Slider(0.05, 1, 0.05, (1, "off"))
    )
    """Keep the fewest tokens that together have this probability; 1 keeps all."""
    min_p: float = setting(
        0.0, "between 0 and 1", lambda value: 0 <= value <= 1, slider=Slider(0, 0.5, 0.01, (0, "off"))
    )
    """Keep tokens with at least this fraction of the largest probability; 0 keeps all."""
    typical_p: float = setting(1.0, "above 0 and at most 1", lambda value: 0 < value <= 1)
    """Keep the tokens whose surprisal is nearest the entropy, up to this probability; 1 keeps all."""
    repetition_penalty: float = setting(
        1.0,
        "between 0.001 and 1000",
        lambda value: 1e-3 <= value <= 1e3,
        slider=Slider(1, 1.5, 0.05, (1, "off")),
    )
    """Above 1, weaken the tokens that stand in the text, prompt included: positive logits are divided by it, negative
    ones multiplied; 1 is off."""
    presence_penalty: float = setting(0.0, "at most 1e6 either way", lambda value: abs(value) <= LARGEST_SHIFT)
    """Subtracted from the logits of tokens generated before; 0 is off."""
    frequency_penalty: float = setting(0.0, "at most 1e6 either way", lambda value: abs(value) <= LARGEST_SHIFT)
    """Subtracted from the logit of a token once for each time that it was generated before; 0 is off."""
    logit_bias: Mapping[int, float] = setting(
        None,
        "at most 1e6 either way, by token id (-inf forbids)",
        lambda value: all(bias == -math.inf or abs(bias) <= LARGEST_SHIFT for bias in value.values()),
        factory=dict,
    )
    """Added to the logits of these token ids; -inf forbids one."""

    def __post_init__(self) -> None:
        check_settings(self)


# What `generate` and `chat` draw with unless told otherwise: a little bolder than the model, its long tail cut off, and
# what was just said a little less likely, because small models go in circles (see the log).
DEFAULT_SAMPLING = Sampling(temperature=0.8, min_p=0.1, repetition_penalty=1.1)
