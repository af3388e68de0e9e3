"""Vocabularies show what the model itself computes, and a circuit that is known."""

from __future__ import annotations

import pytest
import torch

from nextword.errors import InputError, UnknownToken
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.recording import record
from nextword.trace.weights.vocabulary import (
    copying,
    head_attends,
    head_writes,
    neuron_vocabulary,
    singular_directions,
)
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)


def test_the_circuits_of_hand_made_heads_are_read_off_the_weights() -> None:
    model = induction_model()
    promoted, _ = head_writes(model, 1, 0, 7, 1)
    assert promoted.ids == [7]
    assert copying(model, 1, 0, range(10)) == 1
    assert copying(model, 0, 0, range(10)) < 1
    assert head_writes(model, 1, 1, 7)[0].scores == [0.0] * 10


@every_kind
def test_a_neurons_vocabulary_is_its_contribution_to_each_logit(kind: str) -> None:
    model = random_model(KINDS[kind])
    recording = record(model, PROMPT)
    found = neuron_vocabulary(model, 2, 3, 60)
    scale = recording.activations["norm.scale"][0] * recording.activations["blocks.2.mlp.activation"][0, 3]
    for token, score in list(zip(found.promotes.ids, found.promotes.scores, strict=True))[::13]:
        contribution = attribute(recording, [Quantity(token)])[0].neurons[2, 3]
        assert contribution == pytest.approx(score * float(scale), abs=1e-12)
    assert found.suppresses.ids == found.promotes.ids[::-1]
    assert found.suppresses.scores == pytest.approx(found.promotes.scores[::-1])


@every_kind
def test_directions_are_those_of_the_whole_matrix(kind: str) -> None:
    model = random_model(KINDS[kind])
    a = model.architecture
    group = 3 * a.n_kv_heads // a.n_heads
    attention = model.blocks[1].attention
    value = attention.value.weight.view(a.n_kv_heads, a.head_size, a.width)[group]
    matrix = attention.output.weight[:, 3 * a.head_size :] @ value
    strengths = [strength for strength, _ in singular_directions(model, 1, 3, directions=8)]
    assert strengths == pytest.approx(torch.linalg.svdvals(matrix)[:8].tolist())


@every_kind
def test_what_a_head_attends_to_is_the_models_score(kind: str) -> None:
    """With both tokens at the same place no rotation is left: the score of a text of one token."""
    model = random_model(KINDS[kind])
    if model.architecture.residual == "serial" and "learned" not in kind:
        scores = record(model, [17]).activations["blocks.0.attention.scores"]
        ranked = head_attends(model, 0, 2, 17, 60)
        assert ranked.scores[ranked.ids.index(17)] == pytest.approx(float(scores[2, 0, 0]))


def test_what_is_not_there_is_refused() -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(InputError, match="no head 0.4"):
        head_writes(model, 0, 4, 1)
    with pytest.raises(InputError, match="no neuron 3.0"):
        neuron_vocabulary(model, 3, 0)
    with pytest.raises(UnknownToken):
        head_attends(model, 0, 0, 60)
