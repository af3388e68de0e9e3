"""Fine-tuning: a run that goes on from the weights of a model, with a recipe that keeps what they know.

Promises: the text is written in the model's own tokens and conversations by its own chat template; what is stored in
the end is the model's own shape and family, with its own context. Where positions are rotary, the sequences that a step
reads may be shorter than that context; a learned position that no sequence reached would be forgotten.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from nextword.base.callbacks import OnNote
from nextword.model.architecture import Architecture, Rotary
from nextword.model.transformer import Transformer
from nextword.optimize.evaluate import evaluate
from nextword.optimize.preflight import pick_dtype
from nextword.optimize.recipe import Recipe
from nextword.parameters.open import Stored
from nextword.parameters.trained import Origin
from nextword.train.plan import Budget
from nextword.train.prepare import Corpus

BATCH, LONGEST_ROW, SHORTEST_ROW = 2048, 512, 8  # tokens: of a batch, and of a sequence at most and at least
MUON_LR, ADAM_LR, WARMUP = 0.005, 0.001, 0.05
FULL_RATE_WIDTH = 256  # dimensions: a wider model learns at lower rates, in proportion to 1 / width
_MEASURED = 4096  # tokens: of held-out text, before the first step


def weights_of(stored: Stored) -> dict[str, torch.Tensor]:
    """The stored weights in float32."""
    return {name: torch.from_numpy(tensor.dequantize()) for name, tensor in stored.tensors.items()}


def origin_of(stored: Stored, model: str, recipe: Recipe, corpus: Corpus, device: str, on_note: OnNote) -> Origin:
    """Measure the model before the first step, and describe it.

    Args:
        stored: The model.
        model: As the user named it.
        recipe: Of the run.
        corpus: Whose held-out text is measured on.
        device: To measure on.
        on_note: Called with the result.
    """
    before = None
    if corpus.heldout is not None:
        model_now = Transformer.of(recipe.architecture, weights_of(stored)).to(device)
        before = evaluate(model_now, corpus.heldout, _MEASURED).bits_per_byte
        on_note(f"{model}, as it is, needs {before:.4f} bits per byte on a sample of the held-out text.")
    stops = sorted(stored.stop_ids)
    return Origin(model, stored.hash(), stored.family.model_type, stored.architecture.context, stops, before)


def recipe_from(architecture: Architecture, budget: Budget, n_tokens: int, seed: int, device: str) -> Recipe:
    """The recipe of a run from a model's weights: with low learning rates, so that the weights keep what they know.

    Args:
        architecture: Of the model.
        budget: How long to train.
        n_tokens: Of the text.
        seed: Of the order of the data.
        device: To train on.
    """
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
        muon_lr=MUON_LR * share,
        adam_lr=ADAM_LR * share,
        warmup=WARMUP,
    )
