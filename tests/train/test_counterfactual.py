"""A run without a passage: it is the run but for the passage, and forgets what only the passage taught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from nextword import cli
from nextword.encode.shards import open_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.parameters.run_folder import RunFolder
from nextword.predict.torch_engine import checkpoint_model
from nextword.trace.text.indexed import training_order
from nextword.trace.text.influence import influences
from nextword.train.counterfactual import effect, estimate, find_passage, restart, start_without
from nextword.train.plan import Budget
from nextword.train.run import resume, start

FACT = "Zed kept a violet walrus"
PLAIN = ["Ann ate an apple pie.", "Ben saw a small boat.", "Cleo drew a red house.", "Dan sang an old song."]
STEPS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run over 200 documents of four sentences, of which the 90th also holds the fact, twenty times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("counterfactual")
    random = np.random.default_rng(0)
    with (folder / "text.jsonl").open("w") as file:
        for i in range(200):
            sentences = [PLAIN[j] for j in random.permutation(4)] + [f"{FACT}."] * (20 if i == 90 else 0)
            file.write(json.dumps({"text": f"{i}: " + " ".join(sentences), "title": str(i)}) + "\n")
    (folder / "heldout.txt").write_text(" ".join(PLAIN))
    training = start(
        [str(folder / "text.jsonl")],
        folder / "run",
        Budget(steps=STEPS),
        depth=1,
        holdout=[str(folder / "heldout.txt")],
    )
    list(training.train())
    yield folder / "run"
    torch.set_num_threads(threads)


def command(*words: str) -> Any:
    result = CliRunner().invoke(cli.app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def ids_of(run: Path, prompt: str, word: str) -> tuple[list[int], int]:
    tokenizer = Tokenizer.from_folder(run)
    return tokenizer.encode_prompt(prompt), tokenizer.encode(word)[0]


def test_the_passage_is_found_byte_for_byte_whatever_its_tokens(run: Path) -> None:
    shards, tokenizer = open_shards(run / "corpus" / "train"), Tokenizer.from_folder(run)
    places = find_passage(shards, tokenizer, "iolet walr")
    assert len(places) == 20
    for place in places:
        assert "iolet walr" in tokenizer.decode(shards.tokens[place.start : place.stop].tolist())
        assert "iolet walr" not in tokenizer.decode(shards.tokens[place.start + 1 : place.stop].tolist())
        assert shards.document(shards.locate(place.start)[0])["title"] == "90"
    assert find_passage(shards, tokenizer, "walrus violet") == []
    assert find_passage(shards, tokenizer, "") == []


def test_with_nothing_withheld_the_weights_are_the_runs_bit_for_bit(run: Path, tmp_path: Path) -> None:
    card = json.loads((run / "card.json").read_text())
    restart(run, tmp_path / "same", 8, [], card)
    list(resume(tmp_path / "same").train())
    expected, found = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "same"))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_without_its_only_source_a_fact_is_not_learned(run: Path, tmp_path: Path) -> None:
    new, withheld = start_without(run, FACT, tmp_path / "new")
    order, taken = training_order(run)
    shards, tokenizer = open_shards(run / "corpus" / "train"), Tokenizer.from_folder(run)
    places = find_passage(shards, tokenizer, FACT)
    read = {each.step for place in places for each in order.exposures(range(place.start, place.stop + 1), taken)}
    assert (withheld.count, withheld.exposures, withheld.first_read) == (20, len(read), min(read))
    later = [step for step in RunFolder(run).steps() if step > withheld.resumed_after]
    assert withheld.resumed_after <= min(read) < min(later)
    assert find_passage(open_shards(new.folder / "corpus" / "train"), tokenizer, FACT) == []
    list(new.train())
    fact = effect(run, new.folder, *ids_of(run, "Zed kept a violet", " walrus"))
    other = effect(run, new.folder, *ids_of(run, "Ann ate an apple", " pie"))
    assert fact.with_passage > 0.3
    assert fact.without_passage < 0.1 * fact.with_passage
    assert abs(other.change) < 0.3
    card = json.loads((new.folder / "card.json").read_text())
    assert card["without"]["passage"] == FACT
    assert card["corpus"]["train"]["hash"] == open_shards(new.folder / "corpus" / "train").content_hash()
    estimated = estimate(run, new.folder, FACT, *ids_of(run, "Zed kept a violet", " walrus"))
    assert estimated.counted_with == 1 > estimated.counted_without
    assert estimated.below >= 0.9 * estimated.others


def test_influence_finds_the_document_that_taught_the_fact(run: Path) -> None:
    shards = open_shards(run / "corpus" / "train")
    documents = [shards.tokens[a:b].tolist() for a, b in zip(shards.starts[80:100], shards.starts[81:101], strict=True)]
    models = [checkpoint_model(run, step) for step in RunFolder(run).run_steps()[-3:]]
    scores = influences(models, *ids_of(run, "Zed kept a violet", " walrus"), documents)
    assert shards.document(80 + int(scores.argmax()))["title"] == "90"
    with pytest.raises(InputError):
        influences([], [1], 1, documents)


def test_the_command_tells_the_change(run: Path, tmp_path: Path) -> None:
    words = ["counterfactual", str(run), "--without", FACT, "--out", str(tmp_path / "new")]
    word = Tokenizer.from_folder(run).token_text(ids_of(run, "an", " apple")[1])
    result = command(*words, "--ask", "Ann ate an", word, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["passage"] == FACT
    assert told["estimated"]["others"] == 20
    assert 0 <= told["without_passage"] <= 1
    assert "going on without it" in result.stderr
    again = command(*words)
    assert again.exit_code == 1
    assert "not empty" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--without", "no such words", "--out", "{new}"], "does not hold"),
        (["--without", FACT], "--out"),
        (["--without", FACT, "--out", "{new}", "--steps", "3"], "--steps"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run: Path, tmp_path: Path, words: list[str], said: str) -> None:
    filled = [word.format(new=tmp_path / "new") for word in words]
    result = command("counterfactual", str(run), *filled)
    assert result.exit_code != 0
    assert said in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_passage_that_was_not_read_and_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    text = run.parent / "text.jsonl"
    short = start([str(text)], tmp_path / "short", Budget(steps=1), depth=1)
    with pytest.raises(InputError, match="not finished"):
        start_without(short.folder, FACT, tmp_path / "new")
    list(short.train())
    order, _ = training_order(short.folder)
    shards, tokenizer = open_shards(short.folder / "corpus" / "train"), Tokenizer.from_folder(short.folder)
    names = [f"{i}: " for i in range(100, 190)]
    places = {name: find_passage(shards, tokenizer, name) for name in names}
    unread = next(
        name for name in names if places[name] and not any(order.exposures(place, 1) for place in places[name])
    )
    with pytest.raises(InputError, match="never read"):
        start_without(short.folder, unread, tmp_path / "new")


def test_a_changed_text_and_checkpoints_that_begin_too_late_are_refused(run: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(run, tmp_path / "changed")
    for step in RunFolder(changed).steps()[:-1]:
        shutil.rmtree(changed / "checkpoints" / f"step-{step:06}")
    with pytest.raises(InputError, match="no checkpoint from before"):
        start_without(changed, FACT, tmp_path / "new")
    shutil.copytree(run / "checkpoints", changed / "checkpoints", dirs_exist_ok=True)
    tokens = changed / "corpus" / "train" / "tokens.npy"
    data = tokens.read_bytes()
    tokens.write_bytes(data[:-2] + bytes([data[-2] ^ 1, data[-1]]))
    with pytest.raises(InputError, match="no longer what the run began with"):
        start_without(changed, FACT, tmp_path / "new")
    card = json.loads((changed / "card.json").read_text())
    card["recipe"]["init"] = "bigrams"
    (changed / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="bigrams of its whole text"):
        start_without(changed, FACT, tmp_path / "new")
    assert not (tmp_path / "new").exists()
