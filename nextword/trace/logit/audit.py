"""The audit: every claim of a ledger is put to the test by taking its cause away and reading again.

A ledger holds the final norm's scale and everything between a cause and the logit fixed, so a claim can be true as
an account and still not tell what would happen without the cause: later parts may read it, make up for it, or
cancel it. Here each cause is removed (nextword.trace.logit.ablation) at the last position, the rest of the model reacts
freely, and the change is measured. The control does the same with a vector of the same length in a random
direction: what such a figure is worth when there is nothing behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.trace.logit.ablation import Writes, removals, side_by_side
from nextword.trace.logit.attribution import LogitAttribution, through_norm
from nextword.trace.logit.attribution_patching import estimate_effects
from nextword.trace.logit.components import Bias, Component, ValueBias
from nextword.trace.recording import Recording, replay
from nextword.trace.settings import Ablation

Tensor = torch.Tensor
Floats = npt.NDArray[np.floating[Any]]
LEAST = 0.25  # share of what was claimed that must be measured, or the claim has failed


@dataclass(frozen=True)
class Finding:
    """One claim and its test. All figures are how much is lost when the cause is removed.

    ablation          how it was removed
    claim             its share in the ledger
    expected          the claim less that of what was put in its place (the same for "zero")
    measured          of the quantity that the ledger accounts for
    log_probability   of the token, in nats
    foreseen          the same before trying, from one gradient (nextword.trace.logit.attribution_patching)
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

    rank_correlation  Spearman's, of expected and measured change of log p; nan for fewer than three causes
    control           the same with random directions in place of the causes
    foreseen_correlation   the same of foreseen and measured change
    deletion          log p of the token when the first 0, 1, 2, ... supporting causes are removed, largest first
    insertion         when all are removed but the first 0, 1, 2, ...
    random_deletion   as deletion, with random directions
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
    """Remove each of `components` and measure; one cause should not be part of another, or the curves count it twice.

    reference: token ids that means and resamples are taken from, None: the prompt. seed: of what is drawn.
    Raises InputError or SettingError as `nextword.trace.logit.ablation.removals`.
    """
    changes = removals(recording, components, ablation, reference, seed)
    control = _random_directions(changes, seed)
    expected = np.array([_expected(recording, attribution, change) for change in changes])
    estimated = estimate_effects(recording, attribution.quantity.token, changes)
    order = [int(at) for at in np.argsort(-expected, kind="stable") if expected[at] > 0]
    steps = range(len(order) + 1)
    together = [_sum([changes[at] for at in order[:count]]) for count in steps]
    left_over = [_sum([changes[at] for at in order[count:]]) for count in steps]
    at_random = [_sum([control[at] for at in order[:count]]) for count in steps]
    logits = _measure(recording, [{}, *changes, *control, *together, *left_over, *at_random])

    token, n = attribution.quantity.token, len(components)
    log_p = logits.double().log_softmax(-1)[:, token].cpu().numpy()
    quantity = (logits.double() @ attribution.quantity.weights(recording).double()).cpu().numpy()
    lost = log_p[0] - log_p
    curves = np.split(log_p[1 + 2 * n :], 3)
    findings = [
        Finding(
            component,
            "zero" if isinstance(component, ValueBias | Bias) else ablation,
            claim=attribution.contribution(component),
            expected=float(expected[at]),
            measured=float(quantity[0] - quantity[1 + at]),
            log_probability=float(lost[1 + at]),
            estimated_effect=float(estimated[at]),
        )
        for at, component in enumerate(components)
    ]
    return Audit(
        findings,
        rank_correlation(expected, lost[1 : 1 + n]),
        rank_correlation(expected, lost[1 + n : 1 + 2 * n]),
        rank_correlation(estimated, lost[1 : 1 + n]),
        *(curve.tolist() for curve in curves),
    )


def _expected(recording: Recording, attribution: LogitAttribution, change: Writes) -> float:
    """What the ledger's arithmetic says is lost when `change` is added."""
    direction = through_norm(recording.model, attribution.row) * recording.activations["norm.scale"][0]
    return -sum(float(vector @ (attribution.row if point == "norm" else direction)) for point, vector in change.items())


def _random_directions(changes: Sequence[Writes], seed: int) -> list[Writes]:
    """For each change another of the same lengths at the same points."""
    generator = torch.Generator().manual_seed(seed)
    turned: list[Writes] = []
    for change in changes:
        drawn = {point: torch.randn(len(vector), generator=generator).to(vector) for point, vector in change.items()}
        turned.append({point: drawn[point] * (change[point].norm() / drawn[point].norm()) for point in change})
    return turned


def _sum(changes: Sequence[Writes]) -> Writes:
    total: dict[str, Tensor] = {}
    for change in changes:
        for point, vector in change.items():
            total[point] = total[point] + vector if point in total else vector
    return total


def _measure(recording: Recording, changes: Sequence[Writes]) -> Tensor:
    """Logits [len(changes), vocab] of reading the last token again under each change."""
    added = side_by_side(recording, changes)
    return replay(recording, len(changes), lambda rows: _Adding({point: added[point][rows] for point in added}))


class _Adding:
    """A hook that adds vectors [rows, width] at points."""

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        self._vectors = vectors

    def wants(self, name: str) -> bool:
        return name in self._vectors

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return tensor + self._vectors[name][:, None]


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: the correlation of ranks, ties sharing theirs; nan for fewer than three pairs or all alike."""
    if len(x) < 3:
        return float("nan")
    first, second = _ranks(x), _ranks(y)
    spread = float(first.std() * second.std())
    return float(((first - first.mean()) * (second - second.mean())).mean()) / spread if spread else float("nan")


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks
