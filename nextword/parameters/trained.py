"""What the weights of a training run are stored as: family, shape and last tokens, new or those of where it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nextword.model.architecture import Architecture
from nextword.parameters.families import FAMILIES
from nextword.parameters.families.family import Family

FAMILY = FAMILIES["qwen3"]  # the shape that `nextword.optimize.recipe.standard` describes

StoredForm = tuple[Family, Architecture, frozenset[int]]


@dataclass(frozen=True)
class Origin:
    """The model that a run goes on from, as the run remembers it.

    Args:
        model: As the user named it.
        hash: SHA-256 (hex) of the files of its weights.
        family: `model_type` of its configuration.
        context: Positions that it was made for.
        stop_ids: The tokens that end its texts.
        bits_per_byte: Of the model on a sample of the held-out text, before the first step.
    """

    model: str
    hash: str
    family: str
    context: int
    stop_ids: Sequence[int]
    bits_per_byte: float | None


def read_origin(numbers: Mapping[str, Any]) -> Origin | None:
    """What a checkpoint remembers; None for a run that began with nothing. Raises TypeError if it cannot be read."""
    return None if numbers.get("from") is None else Origin(**numbers["from"])


def form(origin: Origin | None, trained: Architecture, eos_ids: frozenset[int]) -> StoredForm:
    """The family, architecture and last tokens that trained weights are stored with.

    Args:
        origin: The model that the run went on from, if any.
        trained: The architecture of the recipe, whose context is the length of a training sequence.
        eos_ids: Of the run's tokenizer.
    """
    if origin is None:
        return FAMILY, trained, eos_ids
    return FAMILIES[origin.family], replace(trained, context=origin.context), frozenset(origin.stop_ids)
