"""The estimated effect of an ablation is its slope, and more than its slope where only norms lie between."""

from __future__ import annotations

import pytest
import torch

from nextword.trace.logit.ablation import ablation_writes
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.logit.attribution_patching import _readers, estimate_effects
from nextword.trace.logit.audit import _measure
from nextword.trace.logit.components import Bias, Layer
from nextword.trace.recording import record
from tests.trace.models import KINDS, PROMPT, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)
TOKEN = 5


@every_kind
def test_an_estimated_effect_is_the_slope_of_what_is_measured(kind: str) -> None:
    recording = record(random_model(KINDS[kind]), PROMPT)
    (attribution,) = attribute(recording, [Quantity(TOKEN, "expected")])
    changes = [
        *ablation_writes(recording, attribution.top(12), "zero"),
        *ablation_writes(recording, attribution.top(12, "layer"), "mean"),
    ]
    tiny = [{point: 1e-5 * vector for point, vector in change.items()} for change in changes]
    log_p = _measure(recording, [{}, *tiny]).log_softmax(-1)[:, TOKEN].numpy()
    assert estimate_effects(recording, TOKEN, tiny) == pytest.approx(log_p[0] - log_p[1:], rel=1e-3, abs=1e-10)


@every_kind
@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_what_only_the_last_norm_reads_is_estimated_as_it_is_up_to_the_softmax(kind: str, ablation: str) -> None:
    recording = record(random_model(KINDS[kind]), PROMPT)
    last = recording.model.architecture.n_layers - 1
    changes = ablation_writes(recording, [Layer(last, "mlp"), Bias("norm.bias")], ablation)
    without, before = _measure(recording, changes), recording.logits
    slope = -before.softmax(-1)
    slope[TOKEN] += 1
    assert estimate_effects(recording, TOKEN, changes) == pytest.approx(((before - without) @ slope).numpy(), abs=1e-12)


@every_kind
def test_making_the_whole_residual_longer_is_estimated_to_change_nothing(kind: str) -> None:
    """The slope of a norm knows that for a little, the norm itself for any length."""
    recording = record(random_model(KINDS[kind]), PROMPT)
    last = recording.model.architecture.n_layers - 1
    longer = {f"blocks.{last}.mlp": 9 * recording.activations[f"blocks.{last}"][0]}
    assert estimate_effects(recording, TOKEN, [longer]) == pytest.approx(0, abs=1e-4)


@every_kind
def test_every_norm_reads_what_it_read(kind: str) -> None:
    recording = record(random_model(KINDS[kind]), PROMPT)
    readers = list(_readers(recording))
    assert len(readers) == 2 * recording.model.architecture.n_layers + 1
    for point, norm, residual, _ in readers:
        torch.testing.assert_close(norm(residual), recording.activations[point], rtol=0, atol=1e-12)
