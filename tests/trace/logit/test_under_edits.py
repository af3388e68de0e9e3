"""An explanation under edits is exact, too: what an edit changed is a component; to ablate it takes the edit back."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import nextword
from nextword.errors import InputError
from nextword.model.hooks import point_names
from nextword.trace.interventions import Edit, EditHook, Patch, Scale, Steer, edited_engine, patch_from
from nextword.trace.logit.ablation import ablation_writes
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.logit.audit import _measure, audit
from nextword.trace.logit.components import Edited, Head
from nextword.trace.recording import record
from tests.trace.models import KINDS, PROMPT, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)
QUANTITIES = [Quantity(5), Quantity(5, 17), Quantity(5, "mean"), Quantity(5, "expected")]


def some_edits(model: torch.nn.Module, seed: int) -> list[Edit]:
    """An edit of each kind at points of each kind, at all positions or some."""
    names = [name for name in point_names(model.architecture) if not name.endswith((".scores", "logits"))]
    random = torch.Generator().manual_seed(seed)
    drawn = [names[int(at)] for at in torch.randint(len(names), (6,), generator=random)]
    edits: list[Edit] = [Scale(name, 0.3 + 0.2 * number) for number, name in enumerate(drawn)]
    width = model.architecture.width
    steered = torch.randn(width, generator=random, dtype=torch.float64)
    edits.append(Steer("blocks.1", steered, positions=(3, len(PROMPT) - 1)))
    edits.append(Scale("blocks.0.attention.pattern", 0.5, unit=1))
    edits.append(Scale("blocks.2.attention.z", -1.0, unit=0))
    edits.append(patch_from(model, PROMPT[::-1], "blocks.1.mlp", range(len(PROMPT))))
    return edits


@every_kind
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
def test_the_parts_and_the_edits_are_the_logit(kind: str, dtype: torch.dtype, limit: float) -> None:
    for seed in range(4):
        model = random_model(KINDS[kind], seed, dtype)
        edits = some_edits(model, seed)
        recording = record(model, PROMPT, partial(EditHook, edits))
        expected = torch.from_numpy(edited_engine(model, edits).open_session().feed(PROMPT))
        torch.testing.assert_close(recording.logits.float(), expected, atol=1e-4, rtol=1e-4)
        for attribution in attribute(recording, QUANTITIES):
            assert attribution.edits
            scale = max(abs(attribution.total), *map(abs, attribution.edits.values()))
            assert abs(attribution.remainder) <= limit * scale
            shown = attribution.contributions("head")
            assert sum(shown.values()) == pytest.approx(attribution.total, abs=1e-4 if dtype == torch.float32 else 1e-9)
            assert attribution.parts()["edits"] == pytest.approx(sum(attribution.edits.values()))


@every_kind
def test_ablating_an_edit_of_the_last_position_takes_it_back(kind: str) -> None:
    model, last = random_model(KINDS[kind]), len(PROMPT) - 1
    plain = record(model, PROMPT)
    for point in ("embed", "blocks.0", "blocks.1.attention", "blocks.1.attention.z", "blocks.2.mlp", "norm"):
        here = plain.activations[point]
        values = torch.ones_like(here.transpose(0, 1) if point.endswith(".z") else here)
        edits = [Patch(point, values, (last,))]
        recording = record(model, PROMPT, partial(EditHook, edits))
        assert not torch.allclose(recording.logits, plain.logits, atol=1e-3)
        logits = _measure(recording, [{}, *ablation_writes(recording, [Edited(point)], "zero")])
        torch.testing.assert_close(logits[0], recording.logits, atol=1e-8, rtol=0)
        torch.testing.assert_close(logits[1], plain.logits, atol=1e-8, rtol=0)


def test_a_silenced_head_is_its_reads_less_the_edit() -> None:
    model = random_model(KINDS["qk-norm"])
    recording = record(model, PROMPT, partial(EditHook, [Scale("blocks.2.attention.z", 0.0, unit=1)]))
    (attribution,) = attribute(recording, [Quantity(5)])
    assert attribution.contribution(Head(2, 1)) == pytest.approx(-attribution.edits["blocks.2.attention.z"], abs=1e-9)
    found = audit(recording, attribution, [Edited("blocks.2.attention.z"), Head(1, 0)])
    (edit, _) = found.findings
    assert edit.expected == pytest.approx(edit.claim, abs=1e-9)
    assert edit.ablation == "zero"


def test_the_facade_explains_under_edits_and_writes_no_receipt_of_them() -> None:
    gpt = nextword.open("tales", device="cpu").with_edit(nextword.Scale("blocks.5.attention.z", 0.0, unit=3))
    found = gpt.explain("She ate an", " apple", granularity="layer", count=30)
    assert found.probability == pytest.approx(gpt.predict("She ate an").row(found.token).probability, rel=1e-3)
    assert found.claims.relative_remainder <= 1e-5
    assert any(component == Edited("blocks.5.attention.z") for component in found.components)
    assert "the edit at blocks.5.attention.z" in str(found.to_json())
    with pytest.raises(InputError, match="without edits"):
        gpt.receipt("She ate an")
    with pytest.raises(InputError, match="need no explanation"):
        gpt.with_edit(nextword.Scale("logits", 2.0)).explain("She ate an")
