"""Law 6: the contributions of an attribution and its remainder are the logit, for every kind of model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextword.errors import ContextOverflow, EmptyPrompt, UnknownToken
from nextword.trace.logit.attribution import LogitAttribution, Quantity, attribute
from nextword.trace.logit.components import Bias, Head, Layer, Neuron, Position, Read, Source, Token
from nextword.trace.recording import record
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)
QUANTITIES = [Quantity(5), Quantity(5, 17), Quantity(5, "mean"), Quantity(5, "expected")]


def attribution_of(kind: str, quantity: Quantity = QUANTITIES[0]) -> LogitAttribution:
    return attribute(record(random_model(KINDS[kind]), PROMPT), [quantity])[0]


@every_kind
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_parts_are_the_logit(kind: str, dtype: torch.dtype, limit: float) -> None:
    for seed in range(4):
        model = random_model(KINDS[kind], seed, dtype)
        logits = model(torch.tensor([PROMPT]))[0, -1]
        others = [0, logits[17], logits.mean(), (logits.softmax(-1) * logits).sum()]
        for other, attribution in zip(others, attribute(record(model, PROMPT), QUANTITIES), strict=True):
            assert attribution.total == pytest.approx(float(logits[5] - other), abs=2e-5)
            assert abs(attribution.remainder) <= limit * max(abs(attribution.total), 0.1)
            assert attribution.relative_remainder <= limit


@every_kind
def test_a_recording_is_the_forward_pass(kind: str) -> None:
    model = random_model(KINDS[kind])
    for length in (1, 2, 12, 24):
        ids = (PROMPT * 2)[:length]
        assert torch.allclose(record(model, ids).logits, model(torch.tensor([ids]))[0, -1], atol=1e-12)


@every_kind
@pytest.mark.parametrize("granularity", ["finest", "read", "head", "source", "layer", "neuron"])
def test_every_granularity_is_the_whole_attribution(kind: str, granularity: str) -> None:
    attribution = attribution_of(kind)
    contributions = attribution.contributions(granularity)
    assert sum(contributions.values()) == pytest.approx(attribution.total, abs=1e-10)
    for component, contribution in contributions.items():
        assert attribution.contribution(component) == pytest.approx(contribution, abs=1e-12)
    top = attribution.top(7, granularity)
    assert [abs(contributions[component]) for component in top] == sorted(
        map(abs, contributions.values()), reverse=True
    )[:7]


@every_kind
def test_contributions_are_what_the_components_write(kind: str) -> None:
    """The brute-force check: through the model's own last norm, frozen, a part's output gives its contribution."""
    model = random_model(KINDS[kind])
    recording = record(model, PROMPT)
    attribution = attribute(recording, QUANTITIES[:1])[0]
    embedding = model.embed.weight[PROMPT[-1]]
    writes = {
        Token(): embedding,
        Position(): recording.activations["embed"][0] - embedding,
        Layer(1, "attention"): recording.activations["blocks.1.attention"][0],
        Layer(2, "mlp"): recording.activations["blocks.2.mlp"][0],
    }
    for component, vector in writes.items():
        centred = vector - vector.mean() if model.norm.centred else vector
        normed = centred * recording.activations["norm.scale"][0] * model.norm.weight
        assert attribution.contribution(component) == pytest.approx(float(model.logits(normed)[5]), abs=1e-12)


def test_positions_outside_a_window_have_no_contribution() -> None:
    reads = attribution_of("biased queries, window, tied").reads
    assert np.all(reads[2, :, :-3] == 0)
    assert np.all(reads[0] != 0)


def test_in_a_hand_made_circuit_only_the_circuit_has_a_contribution() -> None:
    """Prompt ... 4 7 ... 4: the induction head says 7, because of what it read at the place of 7, and nothing else."""
    ids = [1, 4, 7, 2, 5, 9, 4]
    recording = record(induction_model(), ids)
    assert int(recording.logits.argmax()) == 7
    attribution = attribute(recording, [Quantity(7)])[0]
    contributions = attribution.contributions("finest")
    assert {component for component, contribution in contributions.items() if contribution != 0} == {Read(1, 0, 2)}
    assert attribution.top(5) == [Read(1, 0, 2)]
    assert attribution.remainder == 0
    assert attribution.top(5, "head") == [Head(1, 0)]
    assert attribution.top(5, "source") == [Source(2)]


def test_biases_and_neurons_have_names() -> None:
    contributions = attribution_of("layernorm, learned, biases, tied").contributions("finest")
    assert contributions[Bias("blocks.2.mlp.down.bias")] != 0
    assert contributions[Bias("norm.bias")] != 0
    assert contributions[Neuron(1, 47)] != 0


def test_what_cannot_be_explained_is_refused() -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(EmptyPrompt):
        record(model, [])
    with pytest.raises(ContextOverflow, match="25 tokens"):
        record(model, [1] * 25)
    with pytest.raises(UnknownToken):
        record(model, [60])
    with pytest.raises(UnknownToken):
        attribute(record(model, [1]), [Quantity(60)])
    with pytest.raises(UnknownToken):
        attribute(record(model, [1]), [Quantity(1, 60)])
