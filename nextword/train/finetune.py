"""Going on from weights that are there already: their tokens for the new text, and a recipe that keeps what they know.

Promises: the text is written in the model's own tokens and conversations by its own chat template; what is stored in
the end is the model's own shape and family, with the context that it had. Only the rows that a step reads are shorter,
where positions are rotated: a learned position that no row reached would be forgotten.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from nextword.model.architecture import Architecture, Rotary
from nextword.model.transformer import Transformer
from nextword.optimize.evaluate import evaluate
from nextword.optimize.preflight import pick_dtype
from nextword.optimize.recipe import Recipe
from nextword.parameters.open import Stored
from nextword.parameters.trained import Origin
from nextword.train.plan import Budget, Corpus, Tell

BATCH, LONGEST_ROW, SHORTEST_ROW = 2048, 512, 8  # tokens
MATRIX_RATE, OTHER_RATE, WARMUP = 0.005, 0.001, 0.05
FULL_RATE_WIDTH = 256  # a wider model learns at lower rates, as 1 / width
_MEASURED = 4096  # tokens, before the first step


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
