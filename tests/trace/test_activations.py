"""Activations at all positions, and many sets of edits in one pass: what the single passes give."""

from __future__ import annotations

import pytest
import torch

from nextword.errors import ContextOverflow, InputError
from nextword.model.hooks import point_names
from nextword.trace import activations as module
from nextword.trace.activations import logits_under_each, record_activations
from nextword.trace.interventions import Scale, Steer, edited_engine
from nextword.trace.recording import record
from tests.trace.models import KINDS, PROMPT, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_every_point_is_kept_at_all_positions_as_the_recording_has_the_last(kind: str) -> None:
    model = random_model(KINDS[kind])
    found = record_activations(model, PROMPT)
    assert list(found) == list(point_names(model.architecture))
    last = record(model, PROMPT).activations
    for name, tensor in found.items():
        time = 1 if tensor.dim() == 3 else 0
        assert tensor.shape[time] == len(PROMPT)
        torch.testing.assert_close(tensor.select(time, -1), last[name].select(time, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["logits"], model(torch.tensor([PROMPT]))[0], atol=1e-5, rtol=1e-5)


def test_points_are_chosen_by_pattern_and_shown_as_a_table() -> None:
    model = random_model(KINDS["qk-norm"])
    found = record_activations(model, PROMPT, ["blocks.*.attention.z", "norm"])
    layers = range(model.architecture.n_layers)
    assert list(found) == [*(f"blocks.{layer}.attention.z" for layer in layers), "norm"]
    assert f"blocks.0.attention.z                 {list(found['blocks.0.attention.z'].shape)}" in repr(found)
    with pytest.raises(InputError, match=r"no point 'blocks\.9\.mlp'"):
        record_activations(model, PROMPT, ["blocks.9.mlp"])
    with pytest.raises(ContextOverflow):
        record_activations(model, PROMPT * 20)


def test_what_is_kept_under_edits_is_what_they_made_of_it() -> None:
    model = random_model(KINDS["qk-norm"])
    silenced = [Scale("blocks.1.attention.z", 0.0, unit=2)]
    found = record_activations(model, PROMPT, ["blocks.1.attention.z", "logits"], silenced)
    assert not found["blocks.1.attention.z"][2].any()
    expected = edited_engine(model, silenced).open_session().feed_all(PROMPT)
    torch.testing.assert_close(found["logits"].float(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


@every_kind
def test_sets_of_edits_in_one_batch_give_what_each_gives_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(KINDS[kind])
    sets = [
        [],
        [Scale("blocks.1.attention.z", 0.0, unit=1)],
        [Steer("blocks.0", torch.ones(32)), Scale("blocks.0.attention.pattern", 0.5, unit=0)],
        [Scale("blocks.2.mlp", 0.0, positions=(3, 11))],
    ]
    alone = [edited_engine(model, each).open_session().feed(PROMPT) for each in sets]
    for most in (10_000, 2 * len(PROMPT)):
        monkeypatch.setattr(module, "MOST_TOKENS", most)
        found = logits_under_each(model, PROMPT, sets)
        torch.testing.assert_close(found.float(), torch.stack(list(map(torch.from_numpy, alone))), atol=1e-5, rtol=1e-5)
    assert logits_under_each(model, PROMPT, []).shape == (0, model.architecture.vocab)


@pytest.mark.parametrize(
    "edit", [Scale("blocks.0", float("nan")), Steer("blocks.0", torch.full((32,), torch.inf))], ids=["nan", "inf"]
)
def test_numbers_that_are_not_finite_are_refused(edit: Scale | Steer) -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(InputError, match="not finite"):
        edited_engine(model, [edit])
    with pytest.raises(InputError, match="not finite"):
        logits_under_each(model, PROMPT, [[edit]])
