"""Diff: the differences of components are the change of the logit, and what cannot be compared is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from nextword.errors import InputError, UnknownToken
from nextword.model.transformer import Transformer
from nextword.trace.logit.attribution import Quantity
from nextword.trace.logit.components import Component, Head, Layer, Neuron, component_name
from nextword.trace.logit.diff import compare_models, compare_texts
from tests.trace.models import KINDS, PROMPT, random_model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantity", [Quantity(5), Quantity(5, 17)])
def test_the_differences_are_the_change_of_the_logit(kind: str, quantity: Quantity) -> None:
    models = [random_model(KINDS[kind], seed) for seed in (0, 1)]
    found = compare_models(*models, PROMPT, quantity)
    logits = [model(torch.tensor([PROMPT]))[0, -1] for model in models]
    values = [row[5] - (row[17] if quantity.contrast == 17 else 0) for row in logits]
    assert found.change.total == pytest.approx(float(values[1] - values[0]), abs=1e-11)
    contributions = found.change.contributions("finest")
    assert sum(contributions.values()) + found.change.remainder == pytest.approx(found.change.total, abs=1e-11)
    assert abs(found.change.remainder) <= 1e-10 * max(map(abs, contributions.values()))
    for component in found.change.top(5, "head"):
        assert found.change.contribution(component) == pytest.approx(
            found.after.contribution(component) - found.before.contribution(component)
        )
    payload = json.loads(json.dumps(found.to_json(str, 3, "finest")))
    whole = (
        payload["rest"]
        + payload["change"]["remainder"]
        + sum(component["change"] for component in payload["components"])
    )
    assert whole == pytest.approx(payload["change"]["total"])


@pytest.mark.parametrize("kind", KINDS)
def test_two_texts_differ_by_the_same_parts(kind: str) -> None:
    model, texts = random_model(KINDS[kind]), (PROMPT, PROMPT[3:9])
    found = compare_texts(model, *texts, Quantity(5, "mean"))
    rows = [model(torch.tensor([ids]))[0, -1] for ids in texts]
    leads = [float(row[5] - row.mean()) for row in rows]
    assert found.change.total == pytest.approx(leads[1] - leads[0], abs=1e-11)
    contributions = found.change.contributions("head")
    assert sum(contributions.values()) + found.change.remainder == pytest.approx(found.change.total, abs=1e-11)
    for component in found.change.top(5, "head"):
        assert found.change.contribution(component) == pytest.approx(
            found.after.contribution(component) - found.before.contribution(component)
        )
    same = compare_texts(model, PROMPT, PROMPT, Quantity(5)).change
    assert set(same.contributions("head").values()) == {0.0}


def test_what_did_not_change_has_no_contribution() -> None:
    """One head's output turned round, in the last layer: nothing else differs but what reads the stream after it."""
    model = random_model(KINDS["rmsnorm, grouped"])
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["blocks.2.attention.output.weight"][:, :8] *= -1
    change = compare_models(model, Transformer.of(model.architecture, weights), PROMPT, Quantity(5)).change
    assert change.contribution(Head(2, 0)) != 0
    same = compare_models(model, model, PROMPT, Quantity(5)).change
    assert set(same.contributions("finest").values()) == {0.0}
    assert same.top(5) == []


def test_every_component_has_words() -> None:
    found = compare_models(*(random_model(KINDS["qk-norm"], seed) for seed in (0, 1)), PROMPT, Quantity(5))
    components: set[Component] = set()
    for granularity in ("finest", "head", "source", "layer", "neuron"):
        components |= set(found.change.contributions(granularity))
    assert len({component_name(component) for component in components}) == len(components)
    assert component_name(Head(3, 5)) == "head 3.5"
    assert component_name(Layer(1, "mlp")) == "layer 1's MLP"
    assert component_name(Neuron(1, 4)) == "neuron 1.4"


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    a = KINDS["rmsnorm, grouped"]
    first = random_model(a)
    with pytest.raises(InputError, match="n_layers is 3 in the first and 2 in the second"):
        compare_models(first, random_model(replace(a, n_layers=2, windows=())), PROMPT, Quantity(5))
    with pytest.raises(InputError, match="qk_norm"):
        compare_models(first, random_model(replace(a, qk_norm=True)), PROMPT, Quantity(5))
    with pytest.raises(UnknownToken):
        compare_models(first, first, PROMPT, Quantity(60))
