"""Attention patterns are those of the forward pass, and heads of a known circuit have the roles it gives them."""

from __future__ import annotations

import pytest
import torch

from nextword.errors import InputError, UnknownToken
from nextword.trace.recording import record
from nextword.trace.weights.heads import attention_patterns, head_roles
from tests.trace.models import KINDS, PROMPT, induction_model, random_model


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_end_with_that_of_the_recording(kind: str) -> None:
    model = random_model(KINDS[kind])
    patterns = attention_patterns(model, PROMPT, 1)
    assert patterns.shape == (4, 12, 12)
    assert torch.allclose(patterns[:, -1], record(model, PROMPT).pattern(1), atol=1e-12)


def test_the_heads_of_a_hand_made_circuit_are_known_by_their_roles() -> None:
    roles = head_roles(induction_model(vocab=12, context=24), begin=0, tokens=range(1, 12))
    assert roles.previous[0, 0] == pytest.approx(1)
    assert roles.induction[1, 0] == pytest.approx(1)
    assert next(iter(roles.of(0, 0))) == "previous"
    assert next(iter(roles.of(1, 0))) == "induction"
    for other in ((0, 1), (1, 1)):
        assert max(roles.of(*other)["previous"], roles.of(*other)["induction"]) < 0.6


def test_roles_need_tokens_that_can_be_repeated() -> None:
    model = induction_model(vocab=12, context=24)
    assert head_roles(model).induction[1, 0] > 0.9
    with pytest.raises(UnknownToken):
        head_roles(model, begin=12)
    with pytest.raises(InputError, match="three different tokens"):
        head_roles(model, tokens=[1, 2])


def test_patterns_of_a_layer_that_is_not_there_are_refused() -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(InputError, match="no layer 3"):
        attention_patterns(model, PROMPT, 3)
