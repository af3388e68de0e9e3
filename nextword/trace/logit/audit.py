"""The audit: every claim of an attribution is tested by ablating its component and reading the last token again.

An attribution holds the final norm's scale and everything between a component and the logit fixed, so a claim can be
true as a sum and still not say what would happen without the component: later parts may read it, make up for it, or
cancel it. Here each component is ablated (nextword.trace.logit.ablation) at the last position, the rest of the model
reacts freely, and the change is measured. The control does the same with a vector of the same length in a random
direction: it shows what these figures are where there is nothing behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.types import Tensor
from nextword.trace.logit.ablation import AddingHook, Writes, ablation_writes, stacked
from nextword.trace.logit.attribution import LogitAttribution, through_norm
from nextword.trace.logit.attribution_patching import estimate_effects
from nextword.trace.logit.components import Bias, Component, Edited, ValueBias
from nextword.trace.recording import Recording, log_probability, rerun_last
from nextword.trace.settings import Ablation

Floats = npt.NDArray[np.floating[Any]]
LEAST = 0.25  # fraction: of the expected effect that must be measured for a claim to hold


@dataclass(frozen=True)
class Finding:
    """One claim and its test. All figures are what is lost when the component is ablated.

    Args:
        component: What was ablated.
        ablation: How.
        claim: Its contribution to the quantity, in logits.
        expected: The claim less the contribution of what was put in its place (the same for "zero"), in logits.
        measured: The measured loss of the quantity, in logits.
        log_probability: The measured loss of the token's log probability, in nats.
        estimated_effect: The same, estimated without trying (nextword.trace.logit.attribution_patching), in nats.
    """

    component: Component
    ablation: Ablation
    claim: float
    expected: float
    measured: float
    log_probability: float
    estimated_effect: float

    @property
    def holds(self) -> bool:
        """Whether the measured effect has the direction of what was expected and at least `LEAST` of its size."""
        return self.measured * self.expected > 0 and abs(self.measured) >= LEAST * abs(self.expected)


@dataclass(frozen=True)
class Audit:
    """The findings, and how far to trust claims of this kind here.

    Args:
        findings: One for each component.
        rank_correlation: Spearman's, of expected loss and measured loss of log p; nan for fewer than three components.
        control: The same with random directions in place of the components.
        estimate_correlation: The same of estimated and measured loss of log p.
        deletion: log p of the token when the first 0, 1, 2, ... supporting components are ablated, largest first
            (Petsiuk et al., 2018).
        insertion: log p when all of them are ablated but the first 0, 1, 2, ...
        random_deletion: As deletion, with random directions.
    """

    findings: Sequence[Finding]
    rank_correlation: float
    control: float
    estimate_correlation: float
    deletion: Sequence[float]
    insertion: Sequence[float]
    random_deletion: Sequence[float]


@torch.no_grad()
def audit(
    recording: Recording,
    attribution: LogitAttribution,
    components: Sequence[Component],
    ablation: Ablation = "zero",
    *,
    reference: Sequence[int] | None = None,
    seed: int = 0,
) -> Audit:
    """Ablate each of `components` and measure.

    Args:
        recording: Of the prompt.
        attribution: Whose claims are tested.
        components: None should be part of another, or the curves count it twice.
        ablation: What is put in a component's place.
        reference: Token ids that means and resamples are taken from, None: the prompt without its last token.
        seed: Of resamples and random directions.

    Raises:
        InputError: The reference is too short.
        SettingError: The name of the ablation is unknown.
    """
    token = attribution.quantity.token
    changes = ablation_writes(recording, components, ablation, reference, seed)
    control = _random_directions(changes, seed)
    expected = np.array([_expected(recording, attribution, change) for change in changes])
    estimated = estimate_effects(recording, token, changes)
    order = [int(at) for at in np.argsort(-expected, kind="stable") if expected[at] > 0]
    steps = range(len(order) + 1)
    trials: dict[str, Sequence[Writes]] = {
        "intact": [{}],
        "ablated": changes,
        "control": control,
        "deletion": [_sum([changes[at] for at in order[:count]]) for count in steps],
        "insertion": [_sum([changes[at] for at in order[count:]]) for count in steps],
        "random_deletion": [_sum([control[at] for at in order[:count]]) for count in steps],
    }
    logits = _measure(recording, [change for group in trials.values() for change in group])
    log_p = _by_trial(log_probability(logits, token), trials)
    quantity = _by_trial(logits.double() @ attribution.quantity.weights(recording).double(), trials)
    lost = log_p["intact"] - log_p["ablated"]
    findings = [
        Finding(
            component,
            "zero" if isinstance(component, ValueBias | Bias | Edited) else ablation,
            claim=attribution.contribution(component),
            expected=float(expected[at]),
            measured=float(quantity["intact"][0] - quantity["ablated"][at]),
            log_probability=float(lost[at]),
            estimated_effect=float(estimated[at]),
        )
        for at, component in enumerate(components)
    ]
    return Audit(
        findings,
        rank_correlation(expected, lost),
        rank_correlation(expected, log_p["intact"] - log_p["control"]),
        rank_correlation(estimated, lost),
        *(log_p[curve].tolist() for curve in ("deletion", "insertion", "random_deletion")),
    )


def _by_trial(values: Tensor, trials: Mapping[str, Sequence[Writes]]) -> dict[str, Floats]:
    """Values [rows] of all trials one after the other, by the name of the trial."""
    parts = torch.split(values, [len(group) for group in trials.values()])
    return {name: part.cpu().numpy() for name, part in zip(trials, parts, strict=True)}


def _expected(recording: Recording, attribution: LogitAttribution, change: Writes) -> float:
    """The loss of the quantity that the attribution expects when `change` is added, in logits."""
    direction = through_norm(recording.model, attribution.row) * recording.activations["norm.scale"][0]
    return -sum(float(vector @ (attribution.row if point == "norm" else direction)) for point, vector in change.items())


def _random_directions(changes: Sequence[Writes], seed: int) -> list[Writes]:
    """For each change another one, in random directions, of the same lengths at the same points."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Writes] = []
    for change in changes:
        drawn = {point: torch.randn(len(vector), generator=generator).to(vector) for point, vector in change.items()}
        found.append({point: drawn[point] * (change[point].norm() / drawn[point].norm()) for point in change})
    return found


def _sum(changes: Sequence[Writes]) -> Writes:
    """All changes at once."""
    total: dict[str, Tensor] = {}
    for change in changes:
        for point, vector in change.items():
            total[point] = total[point] + vector if point in total else vector
    return total


def _measure(recording: Recording, changes: Sequence[Writes]) -> Tensor:
    """Logits [len(changes), vocab] of reading the last token again under each change."""
    added = stacked(recording, changes)
    return rerun_last(recording, len(changes), lambda rows: AddingHook({point: added[point][rows] for point in added}))


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation of `x` and `y`, ties at their mean rank; nan for fewer than three pairs or all alike.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
    1.0
    """
    if len(x) < 3:
        return float("nan")
    first, second = _ranks(x), _ranks(y)
    spread = float(first.std() * second.std())
    return float(((first - first.mean()) * (second - second.mean())).mean()) / spread if spread else float("nan")


def _ranks(values: Floats) -> Floats:
    """The rank of each value, 1 for the least; equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks
