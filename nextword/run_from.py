"""Going on from weights that are there already: their tokens for the new text, and a recipe that keeps what they know.

Promises: the text is written in the model's own tokens and conversations by its own chat template; what is stored in
the end is the model's own shape and family, with the context that it had. Only the rows that a step reads are shorter,
where positions are rotated: a learned position that no row reached would be forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nextword.model.architecture import Architecture, Rotary
from nextword.model.transformer import Transformer
from nextword.optimize.evaluate import evaluate
from nextword.optimize.preflight import pick_dtype
from nextword.optimize.recipe import Recipe
from nextword.parameters.families import FAMILIES
from nextword.parameters.families.family import Family
from nextword.parameters.open import Stored
from nextword.plan import Budget, Corpus, Tell

BATCH, LONGEST_ROW, SHORTEST_ROW = 2048, 512, 8  # tokens
MATRIX_RATE, OTHER_RATE, WARMUP = 0.005, 0.001, 0.05
FULL_RATE_WIDTH = 256  # a wider model learns at lower rates, as 1 / width
_MEASURED = 4096  # tokens, before the first step


@dataclass(frozen=True)
class Origin:
    """What a run remembers of the model it goes on from.

    model           as the user named it
    hash            SHA-256 (hex) of the files of its weights
    family          `model_type` of its configuration
    context         how many positions it was made for
    stop_ids        the tokens that end its texts
    bits_per_byte   of it on a sample of the held-out text, before the first step
    """

    model: str
    hash: str
    family: str
    context: int
    stop_ids: Sequence[int]
    bits_per_byte: float | None

    def form(self, trained: Architecture) -> tuple[Family, Architecture, frozenset[int]]:
        """In which family, architecture and with which last tokens the trained weights are stored."""
        return FAMILIES[self.family], replace(trained, context=self.context), frozenset(self.stop_ids)


def weights_of(stored: Stored) -> dict[str, torch.Tensor]:
    """The stored weights in float32."""
    return {name: torch.from_numpy(tensor.dequantize()) for name, tensor in stored.tensors.items()}


def origin_of(stored: Stored, model: str, recipe: Recipe, corpus: Corpus, device: str, tell: Tell) -> Origin:
    """What to remember of the model, which is measured as it is."""
    before = None
    if corpus.heldout is not None:
        model_now = Transformer.of(recipe.architecture, weights_of(stored)).to(device)
        before = evaluate(model_now, corpus.heldout, _MEASURED).bits_per_byte
        tell(f"{model}, as it is, needs {before:.4f} bits per byte on a sample of the held-out text.")
    stops = sorted(stored.stop_ids)
    return Origin(model, stored.hash(), stored.family.model_type, stored.architecture.context, stops, before)


def read_origin(numbers: Mapping[str, Any]) -> Origin | None:
    """What a checkpoint remembers; None for a run that began with nothing. Raises TypeError if it cannot be read."""
    return None if numbers.get("from") is None else Origin(**numbers["from"])


def recipe_from(architecture: Architecture, budget: Budget, n_tokens: int, seed: int, device: str) -> Recipe:
    """Low rates: weights that know something are easily made to forget it."""
    share = min(1.0, FULL_RATE_WIDTH / architecture.width)
    row = architecture.context
    if isinstance(architecture.position, Rotary):
        row = min(row, LONGEST_ROW)
        while row >= n_tokens and row > SHORTEST_ROW:
            row //= 2
    return Recipe(
        replace(architecture, context=row),
        budget.steps or 1000,
        max(1, BATCH // row),
        seed=seed,
        dtype=pick_dtype(device),
        matrix_rate=MATRIX_RATE * share,
        other_rate=OTHER_RATE * share,
        warmup=WARMUP,
    )
