"""The effect of each part of the training recipe: bits per byte without it, over several seeds.

    python bench/ablate.py FILE [--heldout FILE] [--depth 3] [--steps 400] [--seeds 3] [--only NAME ...]

FILE is any text that `nextword train` reads. Every variant takes the same steps over the same tokens from the same
seeds. Printed are the mean over seeds of the held-out bits per byte, the difference to the unchanged recipe (pairwise,
seed by seed, with the standard error of that mean), and the milliseconds of a step.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from nextword.model.architecture import tensor_shapes
from nextword.model.types import Tensor
from nextword.optimize import muon, trainer
from nextword.optimize.initialize import initial_weights
from nextword.optimize.optimizer import Adam, Optimizer
from nextword.optimize.preflight import pick_dtype, shape
from nextword.optimize.recipe import Rates, Recipe
from nextword.train.prepare import Corpus, prepare

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """One change of the recipe; by default nothing changes."""

    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    weights: Callable[[Weights], Weights] = lambda weights: weights
    optimizer: Callable[..., Optimizer] = Optimizer
    polynomials: int | None = None


class AdamOnly(Optimizer):
    """Adam for all weights, matrices too, at `scale` times adam_lr."""

    def __init__(
        self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, *, scale: float = 1.0
    ) -> None:
        super().__init__(weights, dtype)
        self._all, self._scale = Adam(weights), scale

    def step(self, gradients: Mapping[str, Tensor], number: int, rates: Rates) -> None:
        self._all.step(gradients, rates.adam_lr * self._scale, number)


class TorchMuon(Optimizer):
    """torch's Muon for the matrices, with the same momentum and rates."""

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(weights, dtype)
        self._matrices = {n: w.requires_grad_(False) for n, w in weights.items() if n in self._muon.momentum}
        self._torch = torch.optim.Muon(list(self._matrices.values()), lr=1.0, momentum=0.95, nesterov=True)

    def step(self, gradients: Mapping[str, Tensor], number: int, rates: Rates) -> None:
        for name, matrix in self._matrices.items():
            matrix.grad = gradients[name]
        for group in self._torch.param_groups:
            group["lr"], group["momentum"], group["weight_decay"] = rates.muon_lr, rates.momentum, rates.weight_decay
        self._torch.step()
        self._adam.step(gradients, rates.adam_lr, number)


class PlainDecay(Optimizer):
    """Weight decay of all matrices, whatever their update."""

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(weights, dtype)
        self._matrices = [weights[name] for name in self._muon.momentum]

    def step(self, gradients: Mapping[str, Tensor], number: int, rates: Rates) -> None:
        for matrix in self._matrices:
            matrix.mul_(1 - rates.muon_lr * rates.weight_decay)
        super().step(gradients, number, replace(rates, weight_decay=0.0))


def drawn_projections(weights: Weights) -> Weights:
    """Output projections drawn like other matrices, scaled down with the number of blocks, instead of zero."""
    outputs = [name for name in weights if name.endswith(("attention.output.weight", "mlp.down.weight"))]
    generator = torch.Generator().manual_seed(1)
    drawn = {}
    for name in outputs:
        std = weights[name].shape[1] ** -0.5 / math.sqrt(len(outputs))
        drawn[name] = torch.randn(weights[name].shape, generator=generator) * std
    return weights | drawn


def without_qk_norm(recipe: Recipe) -> Recipe:
    return replace(recipe, architecture=replace(recipe.architecture, qk_norm=False))


VARIANTS = {
    "the recipe": Variant(),
    "Adam instead of Muon": Variant(optimizer=AdamOnly),
    "Adam at half the rate": Variant(optimizer=partial(AdamOnly, scale=0.5)),
    "Adam at a quarter of it": Variant(optimizer=partial(AdamOnly, scale=0.25)),
    "torch.optim.Muon": Variant(optimizer=TorchMuon),
    "3 polynomials of Muon's 5": Variant(polynomials=3),
    "no QK-norm": Variant(without_qk_norm),
    "projections not zero": Variant(weights=drawn_projections),
    "no momentum warm-up": Variant(lambda r: replace(r, momentum_warmup=0)),
    "no weight decay": Variant(lambda r: replace(r, weight_decay=0.0)),
    "plain weight decay": Variant(optimizer=PlainDecay),
    "10 times the weight decay": Variant(lambda r: replace(r, weight_decay=0.1)),
    "rates fall in the last fifth": Variant(lambda r: replace(r, decay=0.2)),
    "rates fall from the start": Variant(lambda r: replace(r, decay=1.0)),
    "half of muon_lr": Variant(lambda r: replace(r, muon_lr=r.muon_lr / 2)),
    "twice muon_lr": Variant(lambda r: replace(r, muon_lr=r.muon_lr * 2)),
    "half of adam_lr": Variant(lambda r: replace(r, adam_lr=r.adam_lr / 2)),
    "twice adam_lr": Variant(lambda r: replace(r, adam_lr=r.adam_lr * 2)),
    "embedding not tied": Variant(lambda r: replace(r, architecture=replace(r.architecture, tied=False))),
}


def run(variant: Variant, recipe: Recipe, corpus: Corpus, dtype: str) -> tuple[float, float]:
    """Held-out bits per byte after the run, and seconds of a step."""
    recipe = replace(variant.recipe(recipe), dtype=dtype)  # type: ignore[arg-type]
    weights = variant.weights(initial_weights(recipe.architecture, recipe.seed))
    assert {name: tuple(w.shape) for name, w in weights.items()} == tensor_shapes(recipe.architecture)
    some = muon._POLYNOMIALS[: variant.polynomials]
    with patch.object(trainer, "Optimizer", variant.optimizer), patch.object(muon, "_POLYNOMIALS", some):
        training = trainer.Trainer(recipe, corpus.text, corpus.heldout, weights=weights)
        began = time.perf_counter()
        for _ in training:
            pass
        pace = (time.perf_counter() - began) / recipe.steps
        return training.evaluate(100_000).bits_per_byte, pace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--heldout")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=VARIANTS)
    given = parser.parse_args()
    heldout = [] if given.heldout is None else [given.heldout]
    with tempfile.TemporaryDirectory() as folder:
        corpus, _ = prepare([given.text], heldout, Path(folder), print)
        architecture, rows = shape(given.depth, corpus.text.vocab, len(corpus.text.tokens))
        print(
            f"{architecture.n_parameters:,} parameters, {given.steps} steps of {rows} x {architecture.context} tokens"
        )
        print("\n| variant | bits per byte | worse than the recipe by | ms a step |\n| --- | --- | --- | --- |")
        usual: list[float] = []
        for name in dict.fromkeys(["the recipe", *(given.only or VARIANTS)]):
            found, paces = [], []
            for seed in range(given.seeds):
                recipe = Recipe(architecture, given.steps, rows, seed)
                bits, pace = run(VARIANTS[name], recipe, corpus, pick_dtype("cpu"))
                found.append(bits)
                paces.append(pace)
            usual = usual or found
            gaps = [a - b for a, b in zip(found, usual, strict=True)]
            error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
            worse = "" if found is usual else f"{statistics.mean(gaps):+.4f} +- {error:.4f}"
            pace = 1000 * statistics.median(paces)
            print(f"| {name} | {statistics.mean(found):.4f} | {worse} | {pace:.1f} |", flush=True)


if __name__ == "__main__":
    main()
