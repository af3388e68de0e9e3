"""Going on from stored weights: of every family, in its own tokens and shape; conversations, of which answers count."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.errors import InputError
from nextword.parameters.open import open_stored
from nextword.train.events import Finished, Stepped
from nextword.train.plan import Budget
from nextword.train.prepare import open_corpus
from nextword.train.run import resume, start
from tests import tiny
from tests.train.test_run import WORLD, begin, finish, log, weights

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    training = begin(tmp_path_factory.mktemp("base") / "run", steps=16)
    finish(training)
    return training.folder


def texts(folder: Path, n: int = 60) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{tiny.TEXT} Bear {i} ate pie {i * i}."}) + "\n" for i in range(n)))
    return path


def conversations(folder: Path, n: int = 60) -> Path:
    path = folder / "talk.jsonl"
    turns = [
        [
            {"role": "user", "content": f"What is {i} and one?"},
            {"role": "assistant", "content": f"It is {i + 1}."},
        ]
        for i in range(n)
    ]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return path


@pytest.mark.parametrize("variant", ["llama-biased", "gpt2-untied", "gpt_neox", "qwen2-windows", "llama3-scaling"])
def test_every_family_goes_on_and_is_stored_as_it_was(variant: str, tmp_path: Path) -> None:
    model = tiny.save(tiny.make(variant), tmp_path / "model")
    training = start([str(texts(tmp_path))], tmp_path / "run", Budget(steps=4), model=str(model))
    finish(training)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (model, training.folder))
    for name in ("model_type", "vocab_size", "max_position_embeddings", "n_positions", "architectures"):
        assert before.get(name) == after.get(name)
    ours = nextword.open(training.folder)
    prediction = ours.predict("An apple pie, and")
    theirs = AutoModelForCausalLM.from_pretrained(training.folder, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(torch.tensor([list(prediction.ids)])).logits[0, -1].numpy()
    assert np.abs(prediction.distribution.logits - logits).max() <= 1e-4
    old, new = open_stored(model), open_stored(training.folder)
    assert old.architecture == new.architecture
    assert old.stop_ids == new.stop_ids
    moved = [name for name in old.tensors if np.any(old.tensors[name].dequantize() != new.tensors[name].dequantize())]
    assert set(moved) == set(old.tensors)


def test_it_begins_where_the_weights_are_and_gets_better_on_the_new_text(base: Path, tmp_path: Path) -> None:
    """A text of the same language but other sentences: what is known helps at once."""
    new = start(["world:pantry,mb=0.05,seed=9"], tmp_path / "new", Budget(steps=40), model=str(base))
    events = finish(new)
    first = next(event for event in events if isinstance(event, Stepped))
    last_of_base = [line["bits_per_byte"] for line in log(base) if "loss" in line][-1]
    assert first.progress.bits_per_byte == pytest.approx(last_of_base, rel=0.15)
    card = json.loads((new.folder / "card.json").read_text())
    assert card["from"]["model"] == str(base)
    assert card["from"]["hash"] == open_stored(base).hash
    assert card["results"]["bits_per_byte"] < card["from"]["bits_per_byte"]
    assert card["forecast"]["bits_per_byte"] is None
    assert card["corpus"]["tokenizer"] == nextword.open(base).tokenizer.hash
    assert isinstance(events[-1], Finished)


def test_it_is_resumed_bit_for_bit_without_the_model_it_came_from(base: Path, tmp_path: Path) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    whole = start([WORLD], tmp_path / "whole", Budget(steps=12), model=str(model)).folder
    shutil.rmtree(model)
    parts = shutil.copytree(whole, tmp_path / "parts")
    finish(resume(whole))
    for _ in range(2):
        list(islice(resume(parts).train(), 4))
    finish(resume(parts))
    assert weights(parts) == weights(whole)
    assert log(parts) == log(whole)


def test_of_conversations_only_the_answers_count(tmp_path: Path) -> None:
    training = begin(tmp_path / "run", text=str(conversations(tmp_path)), steps=4)
    finish(training)
    corpus = open_corpus(training.folder)
    assert corpus.text.mask is not None
    counted = corpus.tokenizer.decode(corpus.text.tokens[corpus.text.mask == 1].tolist())
    assert counted.startswith("It is ")
    assert "What" not in counted
    assert counted.count("<|im_end|>") == corpus.text.n_documents
    card = json.loads((training.folder / "card.json").read_text())
    assert card["corpus"]["train"]["counted"] == corpus.text.mask.sum()
    said = nextword.open(training.folder).chat().say("What is 3 and one?", max_tokens=4, seed=0)
    assert said.finish().text
    more = start([str(conversations(tmp_path, 90))], tmp_path / "more", Budget(steps=2), model=str(training.folder))
    finish(more)
    assert open_corpus(more.folder).text.mask is not None


def test_the_command_line_says_what_is_learned_of_conversations_and_how_to_talk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", str(conversations(tmp_path)), "--out", str(run), "--steps", "2", "--depth", "1"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.stderr
    assert "only the answers are learned and measured" in result.stderr
    assert result.stdout.endswith(f"nextword chat --model {run}\n")


def test_conversations_for_a_model_without_a_template_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"talk.jsonl:1 is a conversation, but the model has no chat template"):
        start([str(conversations(tmp_path))], tmp_path / "run", Budget(steps=2), model=str(base))
    assert not (tmp_path / "run").exists()


def test_the_command_line_goes_on_from_a_model_and_says_how_it_was(base: Path, tmp_path: Path) -> None:
    words = ["train", WORLD, "--out", str(tmp_path / "run"), "--from", str(base), "--steps", "3"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.stderr
    assert f"{base}, as it is, needs " in result.stderr
    assert f"({base}, as it was: " in result.stdout
    assert CliRunner().invoke(cli.app, [*words, "--depth", "2"]).exit_code == 2
    words[3], words[5] = str(tmp_path / "other"), str(tmp_path / "nowhere")
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 1
    assert "error: There is no model" in result.stderr
    assert not (tmp_path / "other").exists()
