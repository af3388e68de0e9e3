"""The audit measures what really happens when a component is ablated, and says when a claim fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextword.errors import InputError, SettingError
from nextword.model.hooks import Hook
from nextword.model.transformer import Transformer
from nextword.trace.logit.ablation import ablation_writes
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.logit.audit import Finding, audit, rank_correlation
from nextword.trace.logit.components import (
    Bias,
    Component,
    Head,
    Layer,
    Neuron,
    Position,
    Read,
    Source,
    Token,
    ValueBias,
)
from nextword.trace.recording import Recording, record, rerun_last
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)
TOKEN = 5


class AtLast:
    """A hook that changes one point, at the last position only."""

    def __init__(self, point: str, change: object) -> None:
        self._point, self._change = point, change

    def wants(self, name: str) -> bool:
        return name == self._point

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        self._change(tensor[0])
        return tensor


def brute_force(model: Transformer, component: Component, recording: Recording) -> torch.Tensor:
    """Logits of the whole forward pass with the component zeroed where it is computed, rather than where it writes."""

    def zero_head(z: torch.Tensor) -> None:
        z[component.head, -1] = 0

    def zero_neuron(activation: torch.Tensor) -> None:
        activation[-1, component.neuron] = 0

    def zero_all(written: torch.Tensor) -> None:
        written[-1] = 0

    def no_token(embedded: torch.Tensor) -> None:
        embedded[-1] -= model.embed.weight[PROMPT[-1]]

    def no_read(z: torch.Tensor) -> None:
        group = component.head // (model.architecture.n_heads // model.architecture.n_kv_heads)
        bias = model.blocks[component.layer].attention.value.bias
        value = recording.values(component.layer)[group, component.source]
        value = value if bias is None else value - bias.view(-1, model.architecture.head_size)[group]
        z[component.head, -1] -= recording.pattern(component.layer)[component.head, component.source] * value

    match component:
        case Token():
            hook: Hook = AtLast("embed", no_token)
        case Head(layer, _):
            hook = AtLast(f"blocks.{layer}.attention.z", zero_head)
        case Read(layer, _, _):
            hook = AtLast(f"blocks.{layer}.attention.z", no_read)
        case Neuron(layer, _):
            hook = AtLast(f"blocks.{layer}.mlp.activation", zero_neuron)
        case Layer(layer, part):
            hook = AtLast(f"blocks.{layer}.{part}", zero_all)
    return model(torch.tensor([PROMPT]), hook=hook)[0, -1]


@every_kind
def test_ablating_by_zero_is_zeroing_in_the_forward_pass(kind: str) -> None:
    model = random_model(KINDS[kind])
    recording = record(model, PROMPT)
    attribution = attribute(recording, [Quantity(TOKEN, 17)])[0]
    components = [Token(), Head(0, 3), Head(2, 0), Read(0, 1, 11), Read(1, 2, 9), Neuron(0, 7), Neuron(2, 39)]
    components += [Layer(1, "attention"), Layer(0, "mlp")]
    before = model(torch.tensor([PROMPT]))[0, -1]
    for finding in audit(recording, attribution, components).findings:
        after = brute_force(model, finding.component, recording)
        lost = before.log_softmax(-1)[TOKEN] - after.log_softmax(-1)[TOKEN]
        assert finding.log_probability == pytest.approx(float(lost), abs=1e-10)
        contrast = (before - after)[TOKEN] - (before - after)[17]
        assert finding.measured == pytest.approx(float(contrast), abs=1e-10)
        assert finding.claim == finding.expected or finding.claim == pytest.approx(finding.expected, abs=1e-10)
        assert abs(finding.measured) > 1e-6


class LinearizingHook:
    """Everything that the last position computes stays as recorded, and one vector is added to the residual."""

    def __init__(self, recording: Recording, added: dict[str, torch.Tensor]) -> None:
        self._recording, self._added = recording, added

    def wants(self, name: str) -> bool:
        return name in ("embed", "norm.scale", "norm") or name.endswith((".attention", ".mlp"))

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor if name == "norm" else self._recording.activations[name].expand_as(tensor)
        return kept + self._added.get(name, 0)


@every_kind
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_with_everything_else_frozen_an_ablation_takes_exactly_what_was_expected(kind: str, ablation: str) -> None:
    model = random_model(KINDS[kind])
    recording = record(model, PROMPT)
    attribution = attribute(recording, [Quantity(TOKEN)])[0]
    components = [Token(), Position(), Source(2), Head(1, 1), Read(0, 0, 11), Neuron(1, 3), Layer(2, "attention")]
    components += [Layer(0, "mlp"), ValueBias(1, 2), Bias("norm.bias"), Bias("blocks.1.mlp.down.bias")]
    components += [Bias("blocks.0.attention.output.bias")]
    findings = audit(recording, attribution, components, ablation).findings
    for finding, change in zip(findings, ablation_writes(recording, components, ablation), strict=True):
        logits = rerun_last(recording, 1, lambda rows, change=change: LinearizingHook(recording, dict(change)))
        assert finding.expected == pytest.approx(float(recording.logits[TOKEN] - logits[0, TOKEN]), abs=1e-10)
        assert finding.claim == pytest.approx(attribution.contribution(finding.component))


def test_what_stands_outside_a_hand_made_circuit_can_be_ablated_and_nothing_changes() -> None:
    recording = record(induction_model(), [1, 4, 7, 2, 5, 9, 4])
    attribution = attribute(recording, [Quantity(7)])[0]
    outside = [Head(0, 1), Head(1, 1), Layer(0, "mlp"), Layer(1, "mlp"), Read(1, 0, 3), Neuron(1, 2)]
    found = audit(recording, attribution, [*outside, Read(1, 0, 2)])
    assert all(each.claim == each.measured == each.log_probability == 0 for each in found.findings[:-1])
    assert found.findings[-1].holds
    assert found.findings[-1].measured == pytest.approx(attribution.total)
    assert len(found.deletion) == 2


def test_a_long_prompt_is_replayed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(random_model(KINDS["qk-norm"]), PROMPT)
    attribution = attribute(recording, [Quantity(TOKEN)])[0]
    at_once = audit(recording, attribution, attribution.top(9))
    monkeypatch.setattr("nextword.trace.recording.FORK_BYTES", 40_000)
    one_by_one = audit(recording, attribution, attribution.top(9))
    np.testing.assert_allclose(one_by_one.deletion, at_once.deletion, atol=1e-12)


def test_curves_begin_and_end_where_they_must() -> None:
    recording = record(random_model(KINDS["rmsnorm, grouped"]), PROMPT)
    attribution = attribute(recording, [Quantity(TOKEN, "mean")])[0]
    found = audit(recording, attribution, attribution.top(12))
    supporting = sum(each.expected > 0 for each in found.findings)
    assert len(found.deletion) == len(found.insertion) == len(found.random_deletion) == supporting + 1
    now = float(recording.logits.log_softmax(-1)[TOKEN])
    assert found.deletion[0] == pytest.approx(now) == pytest.approx(found.insertion[-1])
    assert found.deletion[-1] == pytest.approx(found.insertion[0])
    assert -1 <= found.control <= 1
    assert -1 <= found.rank_correlation <= 1


def test_a_mean_over_another_text_is_another_mean() -> None:
    recording = record(random_model(KINDS["qk-norm"]), PROMPT)
    attribution = attribute(recording, [Quantity(TOKEN)])[0]
    (own,) = audit(recording, attribution, [Head(1, 1)], "mean").findings
    (other,) = audit(recording, attribution, [Head(1, 1)], "mean", reference=[4, 8, 15, 16, 23, 42]).findings
    assert own.claim == other.claim
    assert own.expected != other.expected


def test_a_claim_can_fail() -> None:
    claim = {
        "component": Token(),
        "ablation": "zero",
        "claim": 2.0,
        "expected": 2.0,
        "log_probability": 0.0,
        "estimated_effect": 0.0,
    }
    assert Finding(**claim, measured=0.6).holds
    assert not Finding(**claim, measured=0.4).holds
    assert not Finding(**claim, measured=-3.0).holds


def test_rank_correlation_is_spearmans() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    ranks = np.corrcoef(x.argsort().argsort(), y.argsort().argsort())
    assert rank_correlation(x, y) == pytest.approx(ranks[0, 1])
    tied = np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1]
    assert rank_correlation(np.array([0.1, 7, 7, 9]), np.array([0, 5, 3, 8.0])) == pytest.approx(tied)
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.arange(2.0), np.arange(2.0)))


def test_what_cannot_be_ablated_so_is_refused() -> None:
    recording = record(random_model(KINDS["qk-norm"]), [1, 2])
    attribution = attribute(recording, [Quantity(TOKEN)])[0]
    with pytest.raises(InputError, match="reference text"):
        audit(recording, attribution, [Token()], "mean")
    with pytest.raises(SettingError, match="zero, mean or resample"):
        audit(recording, attribution, [Token()], "none")
