"""How a token is explained: the settings, their defaults and what each means.

The one list of them: the options of `explain` and `diff`, the fields of the API's requests and the arguments of
`GPT.explain` are made from it (nextword.base.settings). It needs no torch, so that help is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nextword.base.settings import check_settings, setting

Granularity = Literal["finest", "read", "head", "source", "layer", "neuron"]
Ablation = Literal["zero", "mean", "resample", "none"]
MOST_COMPONENTS = (1 << 31) - 1


def _one_of(values: tuple[str, ...]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"


@dataclass(frozen=True)
class ExplainSettings:
    """What is reported about a logit, and how claims are tested.

    Raises SettingError for a value that does not exist.
    """

    count: int = setting(12, "at least 1", lambda value: int(value) == value and 1 <= value <= MOST_COMPONENTS)
    """The number of components to list, largest contributions first."""
    granularity: Granularity = setting(
        "finest", _one_of(get_args(Granularity)), lambda value: value in get_args(Granularity)
    )
    """What one component is. finest: every read of a head, neuron and bias by itself; read, head, source and neuron:
    these by themselves, the rest by layer; layer: attention and MLP of each layer."""
    ablation: Ablation = setting("zero", _one_of(get_args(Ablation)), lambda value: value in get_args(Ablation))
    """How a component is ablated to test its claim: replaced by zero, by the mean over a reference text, by one
    position of it drawn at random (resample); none: no test."""
    reference: str | None = setting(None, "a text", lambda value: value is None or isinstance(value, str))
    """The text that means and resamples are taken from; by default the prompt."""

    def __post_init__(self) -> None:
        check_settings(self)


EXPLAIN = ExplainSettings()
