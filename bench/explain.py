"""Explanations: is the attribution exact, is it cheap, and do its claims survive their audit?

    python -m bench.explain [MODEL]            (from a checkout; needs the extra: pip install '.[test]'; MODEL: smollm2)

Five kinds of random models x 20 seeds; the model on 10 prompts; times of attribution and audit as multiples of one
forward pass of the reference model on 100 tokens, alternating, medians; rank correlation of claims and measured change
of log p over 20 prompts, for each granularity and ablation, with random directions as the control.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

import nextword
from bench.parity import PROMPTS, TEXT
from nextword.api import DEFAULT_MODEL
from nextword.model.transformer import Transformer
from nextword.parameters.open import open_stored
from nextword.trace.logit.attribution import LogitAttribution, Quantity, attribute
from nextword.trace.logit.audit import Audit, audit
from nextword.trace.recording import Recording, record
from tests.trace.models import KINDS, random_model

ROUNDS = 7
COMPONENTS = 32


def main() -> None:
    random_models()
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL
    gpt, stored = nextword.open(name), open_stored(name)
    weights = {tensor: torch.from_numpy(kept.dequantize()) for tensor, kept in stored.tensors.items()}
    model = Transformer.of(stored.architecture, weights).requires_grad_(False)
    remainder(model, [gpt.encode(prompt) for prompt in PROMPTS[:10]])
    times(model, gpt.encode(TEXT)[:100])
    audits(model, [gpt.encode(prompt) for prompt in PROMPTS], gpt.encode(TEXT))


def explained(model: Transformer, ids: list[int]) -> tuple[Recording, list[LogitAttribution]]:
    """The most probable token's logit; above the vocabulary's mean; above the mean by the model's probabilities."""
    recording = record(model, ids)
    token = int(recording.logits.argmax())
    return recording, attribute(recording, [Quantity(token), Quantity(token, "mean"), Quantity(token, "expected")])


def random_models() -> None:
    for dtype, goal in ((torch.float32, "1e-5"), (torch.float64, "1e-10")):
        worst = 0.0
        for architecture in KINDS.values():
            for seed in range(20):
                ids = np.random.default_rng(seed).integers(0, architecture.vocab, architecture.context).tolist()
                _, attributions = explained(random_model(architecture, seed, dtype), ids)
                worst = max(worst, *(attribution.relative_remainder for attribution in attributions))
        print(f"remainder, {len(KINDS)} kinds x 20 random models, {dtype}: at most {worst:.1e} relative (goal {goal})")


def remainder(model: Transformer, prompts: list[list[int]]) -> None:
    attributions = [attribution for ids in prompts for attribution in explained(model, ids)[1]]
    worst = max(attribution.relative_remainder for attribution in attributions)
    strict = max(abs(attribution.remainder / attribution.total) for attribution in attributions)
    print(f"remainder, the model on {len(prompts)} prompts, fp32: at most {worst:.1e} relative (goal 1e-5)")
    print(f"  the same relative to the quantity alone, even where its parts cancel: {strict:.1e}")


@torch.no_grad()
def times(model: Transformer, ids: list[int]) -> None:
    recording, attributions = explained(model, ids)
    components = attributions[2].top(COMPONENTS)
    row = torch.tensor([ids])
    tasks: dict[str, Callable[[], object]] = {
        "forward": lambda: model(row),
        "attribution": lambda: explained(model, ids),
        **{
            f"audit of {COMPONENTS}, {ablation}": partial(audit, recording, attributions[2], components, ablation)
            for ablation in ("zero", "mean", "resample")
        },
    }
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            spent[name].append(time.perf_counter() - began)
    forward = median(spent["forward"])
    print(f"one forward pass of the reference model, {len(ids)} tokens: {forward:.3f} s")
    for name, goal in zip(list(tasks)[1:], (2, 12, 12, 12), strict=True):
        print(f"{name}: {median(spent[name]) / forward:.2f} of it (goal {goal})")


def audits(model: Transformer, prompts: list[list[int]], reference: list[int]) -> None:
    print(
        f"rank correlation of expected and measured change of log p, {COMPONENTS} largest components, "
        f"{len(prompts)} prompts:"
    )
    ready = [explained(model, ids) for ids in prompts]
    for granularity in ("finest", "head", "layer"):
        for ablation in ("zero", "mean", "resample"):
            found = [
                audit(recording, expected, expected.top(COMPONENTS, granularity), ablation, reference=reference)
                for recording, (_, _, expected) in ready
            ]
            report(f"{granularity}, {ablation}", found)


def report(name: str, found: list[Audit]) -> None:
    correlations = [each.rank_correlation for each in found]
    estimated = [each.estimate_correlation for each in found]
    control = np.mean([each.control for each in found])
    held = np.mean([finding.holds for each in found for finding in each.findings])
    fall, random_fall = (
        np.mean([getattr(each, curve)[0] - np.mean(getattr(each, curve)) for each in found])
        for curve in ("deletion", "random_deletion")
    )
    spread = f"from {min(correlations):.2f} to {max(correlations):.2f}"
    print(
        f"  {name}: contributions {np.mean(correlations):.2f} ({spread}), estimated {np.mean(estimated):.2f} "
        f"({min(estimated):.2f} to {max(estimated):.2f}), control {control:.2f}; {held:.0%} of claims hold; "
        f"mean fall of log p along the deletion curve {fall:.2f}, random directions {random_fall:.2f}"
    )


if __name__ == "__main__":
    main()
