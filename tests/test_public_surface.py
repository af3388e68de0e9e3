"""The public surface: sorted, whole, documented; what its objects say of themselves; tried as a researcher would."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nextword
from nextword import errors
from nextword.parameters.open import Stored

Folder = Callable[[str], Path]

PROMPT = "She ate an apple"


@pytest.fixture(scope="module")
def gpt() -> nextword.GPT:
    return nextword.open("tales", device="cpu")


def test_the_surface_is_sorted_and_every_name_is_there_and_documented() -> None:
    names = nextword.__all__
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert dir(nextword) == sorted(names)
    for name in names:
        assert inspect.getdoc(getattr(nextword, name)), name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = nextword.nonsense


def test_every_error_is_exported() -> None:
    tree = {name for name, each in vars(errors).items() if inspect.isclass(each)}
    assert tree <= set(nextword.__all__)


def test_objects_say_what_they_are(gpt: nextword.GPT) -> None:
    assert repr(gpt) == "<GPT tales.gguf: 10 layers of 512, 8 heads, 8,192 tokens, context 1,024>"
    edited = gpt.with_edit(nextword.Scale("blocks.3.mlp", 0))
    assert repr(edited).endswith("under 1 edits>")
    first, *rows = repr(gpt.predict(PROMPT)).splitlines()
    assert first == "<Prediction after 5 tokens, by the CPU kernels with weights in int4 and int8>"
    assert len(rows) == 5
    assert "%" in rows[0]
    assert "by the reference model in float32, under edits" in repr(edited.predict(PROMPT))
    assert repr(gpt.score("A cat sat.")).startswith("<Score of ")
    receipt = gpt.receipt(PROMPT, " pie", ablation="none")
    assert (
        repr(receipt)
        == f"<Receipt of ' pie' after 5 tokens of tales.gguf: {receipt.explanation.probability:.2%}, named>"
    )


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "array", "tensor"])
def test_ids_may_be_any_row_of_whole_numbers(gpt: nextword.GPT, make: Callable[[list[int]], object]) -> None:
    ids = gpt.encode(PROMPT, begin=True)
    found = gpt.predict(make(ids))  # type: ignore[arg-type]
    assert np.array_equal(found.distribution.logits, gpt.predict(PROMPT).distribution.logits)
    assert gpt.score(make(ids)).bits_per_byte == pytest.approx(gpt.score(PROMPT).bits_per_byte)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [7, torch.tensor([[1, 2]]), [1.5], ["She"], np.array([0.5]), [True]])
def test_what_is_neither_text_nor_ids_is_refused_in_a_sentence(gpt: nextword.GPT, given: object) -> None:
    for ask in (gpt.predict, gpt.score, gpt.explain, gpt.record):
        with pytest.raises(nextword.InputError, match="Give a text, or token ids"):
            ask(given)  # type: ignore[operator]


def test_encode_leaves_out_the_beginning_token_that_answers_begin_with(gpt: nextword.GPT) -> None:
    begun = gpt.encode(PROMPT, begin=True)
    assert begun == [gpt.tokenizer.bos_id, *gpt.encode(PROMPT)]
    same = gpt.predict(begun).distribution.logits
    assert np.array_equal(gpt.predict(PROMPT).distribution.logits, same)
    assert not np.array_equal(gpt.predict(gpt.encode(PROMPT)).distribution.logits, same)


def test_one_engine_computes_baseline_and_edits(gpt: nextword.GPT) -> None:
    """An edit that changes nothing changes nothing, where both are asked of one engine."""
    idle = gpt.with_edit(nextword.Scale("blocks.3.mlp", 1.0)).predict(PROMPT)
    baseline = gpt.with_edit().predict(PROMPT)
    assert np.array_equal(idle.distribution.logits, baseline.distribution.logits)
    assert idle.computed_by.startswith("the reference model")
    assert gpt.with_edit().reference_model is gpt.reference_model


def test_sets_of_edits_are_predicted_in_one_pass(gpt: nextword.GPT) -> None:
    sets = [[], *([nextword.Scale(f"blocks.{layer}.mlp", 0)] for layer in range(gpt.architecture.n_layers))]
    found = gpt.predict_each(PROMPT, sets)
    for edits, prediction in zip(sets[:3], found, strict=False):
        alone = gpt.with_edit(*edits).predict(PROMPT)
        np.testing.assert_allclose(prediction.distribution.logits, alone.distribution.logits, atol=1e-3)
    top = found[0].top(1)[0]
    assert len({round(each.row(top.id).probability, 4) for each in found}) > 5


def test_activations_patches_and_roles_of_a_text(gpt: nextword.GPT) -> None:
    a = gpt.architecture
    found = gpt.record(PROMPT, ["blocks.*.attention.pattern", "blocks.2"])
    assert found["blocks.0.attention.pattern"].shape == (a.n_heads, 5, 5)
    assert found["blocks.2"].shape == (5, a.width)
    patched = gpt.with_edit(gpt.patch_from("He drank some tea", "blocks.9", [4], into=[4])).predict(PROMPT)
    other = gpt.with_edit().predict("He drank some tea")
    np.testing.assert_allclose(patched.distribution.logits, other.distribution.logits, atol=1e-3)
    assert gpt.head_roles(texts=1).previous.shape == (a.n_layers, a.n_heads)
    (pair,) = gpt.bigrams("apple", ["pie"])
    assert 0 < pair.probability < 1


def test_any_position_can_be_explained(gpt: nextword.GPT) -> None:
    ids = gpt.encode(PROMPT, begin=True)
    found = gpt.explain(PROMPT, position=2, ablation="none")
    assert (list(found.recording.ids), found.token) == (ids[:3], ids[3]), "the token that follows there"
    assert gpt.explain(PROMPT, position=-1, ablation="none").token == gpt.explain(PROMPT, ablation="none").token
    with pytest.raises(nextword.InputError, match="positions 0 to 4, not 9"):
        gpt.explain(PROMPT, position=9)


def test_the_weights_are_hashed_once(gpt: nextword.GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = Path.open

    def counted(self: Path, *how: object) -> object:
        read.append(self)
        return plain(self, *how)  # type: ignore[call-overload]

    fresh = nextword.open("tales", device="cpu")
    monkeypatch.setattr(Path, "open", counted)
    hashes = [fresh.hashes() for _ in range(3)]
    assert hashes[0] == hashes[1] == hashes[2]
    assert read.count(fresh.path) == 1
    assert isinstance(vars(Stored)["hash"].__doc__, str)


def test_an_export_opens_again_with_the_same_logits(tiny_folder: Folder, tmp_path: Path) -> None:
    gpt = nextword.open(tiny_folder("llama"), device="cpu")
    gpt.export(tmp_path / "hf")
    gpt.export(tmp_path / "model.gguf", to="gguf")
    for path in (tmp_path / "hf", tmp_path / "model.gguf"):
        again = nextword.open(path, device="cpu").predict([5, 6, 7])
        np.testing.assert_allclose(again.distribution.logits, gpt.predict([5, 6, 7]).distribution.logits, atol=1e-5)
    with pytest.raises(nextword.InputError, match="export the model that they were made on"):
        gpt.with_edit(nextword.Scale("norm", 2)).export(tmp_path / "other")


def test_a_run_is_trained_opened_followed_and_asked_through_the_surface_alone(tmp_path: Path) -> None:
    run = nextword.start_run(["world:pantry"], tmp_path / "run", nextword.Budget(steps=4), depth=1, seed=1)
    assert repr(run) == f"<Run {tmp_path / 'run'}: step 0 of 4>"
    list(run.train())
    folder = nextword.RunFolder(tmp_path / "run")
    assert folder.run_steps() == [0, 1, 2, 4]
    early, late = (nextword.open(f"{folder.path}@{step}", device="cpu") for step in (1, 4))
    assert early.predict("She ate an").top(1)[0].probability != late.predict("She ate an").top(1)[0].probability
    found = nextword.history(folder.path, "She ate an", " apple")
    assert [moment.step for moment in found.moments] == [0, 1, 2, 4]
    scores = nextword.influences(
        folder.path, "She ate an", " apple", ["She ate an apple pie.", "Tom ran."], steps=[2, 4]
    )
    assert scores.shape == (2,)
    assert scores[0] > scores[1], "the text that holds the words speaks for them"
    assert json.dumps(late.receipt("She ate an", ablation="none").to_json())
