"""Edits do what they say at the points they name, in any chunks, and generation runs on under them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nextword.errors import ContextOverflow, InputError
from nextword.predict.torch_engine import TorchEngine
from nextword.trace.interventions import Patch, Scale, Steer, edited_engine, patch_from
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)


def logits(engine: TorchEngine, ids: list[int], cuts: tuple[int, ...] = ()) -> np.ndarray:
    session = engine.open_session()
    parts = np.split(np.array(ids), cuts)
    return np.concatenate([session.feed_all(part.tolist()) for part in parts])


@every_kind
def test_edits_that_change_nothing_change_nothing(kind: str) -> None:
    model = random_model(KINDS[kind])
    plain = logits(edited_engine(model, []), PROMPT)
    np.testing.assert_allclose(plain, model(torch.tensor([PROMPT]))[0].numpy(), atol=1e-5)
    idle = [
        Scale("blocks.1.attention.z", 1.0, unit=2),
        Steer("blocks.0", torch.zeros(32)),
        patch_from(model, PROMPT, "blocks.1.mlp.activation", range(12)),
    ]
    np.testing.assert_allclose(logits(edited_engine(model, idle), PROMPT), plain, atol=1e-6)


@every_kind
def test_feeding_in_chunks_is_feeding_at_once_under_edits_too(kind: str) -> None:
    model = random_model(KINDS[kind])
    edits = [
        Scale("blocks.1.attention.value", 0.0, unit=0, positions=(0, 3, 7, 11)),
        Scale("blocks.0.attention.pattern", 2.0, unit=1),
        Steer("blocks.0.mlp", torch.ones(32)),
        patch_from(model, PROMPT[::-1], "blocks.2.attention.z", (1, 5), into=(6, 9), unit=3),
    ]
    engine = edited_engine(model, edits)
    whole = logits(engine, PROMPT)
    assert np.abs(whole - logits(edited_engine(model, []), PROMPT)).max() > 0.01
    for cuts in ((4,), (1, 2, 3, 7, 8), tuple(range(1, 12))):
        np.testing.assert_allclose(logits(engine, PROMPT, cuts), whole, atol=1e-5)


@every_kind
def test_patching_the_whole_residual_gives_the_other_prompts_answer(kind: str) -> None:
    model, other = random_model(KINDS[kind]), [7, 3, 44, 2]
    patch = patch_from(model, other, "blocks.2", [3], into=[11])
    engine = edited_engine(model, [patch])
    np.testing.assert_allclose(logits(engine, PROMPT)[-1], model(torch.tensor([other]))[0, -1].numpy(), atol=1e-5)


def test_an_edit_at_a_position_leaves_what_is_before_it_alone() -> None:
    model = random_model(KINDS["qk-norm"])
    edited = logits(edited_engine(model, [Scale("blocks.0", 0.0, positions=(6,))]), PROMPT)
    plain = logits(edited_engine(model, []), PROMPT)
    assert np.array_equal(edited[:6], plain[:6])
    assert np.abs(edited[6:] - plain[6:]).max(1).min() > 1e-3


@pytest.mark.parametrize("head", [(0, 0), (1, 0)])
def test_without_either_head_of_the_circuit_nothing_is_copied(head: tuple[int, int]) -> None:
    """Unlike the audit, an edit at all positions reaches the previous-token head, too."""
    ids = [1, 4, 7, 2, 5, 9, 4]
    model = induction_model()
    assert logits(edited_engine(model, []), ids)[-1].argmax() == 7
    silent = edited_engine(model, [Scale(f"blocks.{head[0]}.attention.z", 0.0, unit=head[1])])
    answer = logits(silent, ids)[-1]
    assert answer.argmax() != 7 or answer[7] < 0.2 * logits(edited_engine(model, []), ids)[-1][7]


def test_steering_along_an_unembedding_row_raises_its_logit() -> None:
    model = random_model(KINDS["rmsnorm, grouped"])
    steered = logits(edited_engine(model, [Steer("blocks.2", model.unembed.weight[9] * 50)]), PROMPT)
    assert (steered.argmax(1) == 9).all()


def test_a_session_forgets_and_keeps_to_its_room() -> None:
    engine = edited_engine(random_model(KINDS["qk-norm"]), [Scale("blocks.1", 0.5, positions=(2, 3))])
    session = engine.open_session(6)
    session.feed(PROMPT[:4])
    session.truncate(2)
    np.testing.assert_allclose(session.feed(PROMPT[2:6]), logits(engine, PROMPT[:6])[-1], atol=1e-6)
    with pytest.raises(ContextOverflow):
        session.feed([1])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Scale("blocks.9", 0.0), "no point"),
        (Scale("blocks.0.attention.scores", 0.0), "grow with the text"),
        (Scale("blocks.0.attention.value", 0.0, unit=2), "units 0 to 1"),
        (Scale("blocks.0", 0.0, positions=(24,)), "0 to 23"),
        (Steer("blocks.0", torch.zeros(31)), "shape"),
        (Patch("blocks.0", torch.zeros(2, 32), (1,)), "shape"),
        (Steer("blocks.0.attention.pattern", torch.zeros(3)), "grow with the text"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Scale | Steer | Patch, said: str) -> None:
    with pytest.raises(InputError, match=said):
        edited_engine(random_model(KINDS["rmsnorm, grouped"]), [edit])


def test_a_patch_from_a_place_that_is_not_there_is_refused() -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(InputError, match="4 tokens"):
        patch_from(model, [1, 2, 3, 4], "blocks.0", [4])
