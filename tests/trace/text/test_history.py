"""History: the checkpoints' own models, the interval by its rule, and passages that the interval really read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nextword import cli
from nextword.api import open as open_model
from nextword.errors import CorruptFile, InputError, ModelNotFound, UnknownToken
from nextword.parameters.run_folder import RunFolder
from nextword.predict.torch_engine import checkpoint_model
from nextword.trace.text.evidence import exposures
from nextword.trace.text.history import Interval, Moment, learned_in, read_in
from nextword.trace.text.indexed import open_indexed, training_order
from nextword.train.plan import Budget
from nextword.train.run import start

STEPS = 12
PROMPT, TOKEN = "Ben wanted an apple", " pie"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    where = tmp_path_factory.mktemp("history") / "run"
    made = start(["world:pantry,mb=0.05"], where, Budget(steps=STEPS), depth=1)
    list(made.train())
    yield where
    torch.set_num_threads(threads)


def run(*words: str) -> Any:
    result = CliRunner().invoke(cli.app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def mistake(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    return str(result.stderr)


def moments(*log_p: float) -> list[Moment]:
    return [Moment(2**number, each, {}, None) for number, each in enumerate(log_p)]


def test_it_is_learned_where_log_p_rises_most() -> None:
    assert learned_in(moments(-6, -5, -2, -3, -1)) == Interval(2, 4, 3, 0.5)
    assert learned_in(moments(-6, -4, -2)) == Interval(1, 2, 2, 0.5)
    assert learned_in(moments(-6, -8, -6, -9)) is None
    assert learned_in(moments(-6, -5.5)) is None
    assert learned_in(moments(-6)) is None


def test_the_last_checkpoint_is_the_model(folder: Path) -> None:
    ids = torch.tensor([[1, 2, 3]])
    last = checkpoint_model(folder, STEPS)
    assert torch.equal(last(ids), open_model(folder).reference_model(ids))
    assert RunFolder(folder).run_steps() == [0, 1, 2, 4, 8, STEPS]


def test_what_was_read_is_what_the_exposures_say(folder: Path) -> None:
    text, (order, _) = open_indexed(folder), training_order(folder)
    ids = [*text.tokenizer.encode(PROMPT), text.tokenizer.encode_one(TOKEN)]
    interval = Interval(2, 4, 1.0, 1.0)
    found = read_in(text, order, ids, interval)
    assert found is not None
    seen = exposures(text, order, found.passage, interval.by, limit=found.count)
    counts = Counter((e.step, e.place, each.place.position) for each in seen for e in each.exposures)
    for sighting in found.sightings:
        assert counts[sighting.step, sighting.row, sighting.place.position] == 1
        assert interval.after <= sighting.step < interval.by
        assert text.tokenizer.decode(found.passage) in sighting.quote
        at = sighting.place.position
        assert tuple(text.shards.tokens[at : at + len(found.passage)]) == found.passage
    # What the exposures say of a longer end of the prompt and this interval is only a part of it, cut by a row.
    whole = sum(step >= interval.after for step, _, _ in counts.elements())
    assert len(found.sightings) <= found.times <= whole


def test_a_passage_that_stands_nowhere_was_not_read(folder: Path) -> None:
    text, (order, _) = open_indexed(folder), training_order(folder)
    assert read_in(text, order, [5, 0], Interval(0, 4, 1.0, 1.0)) is None


def test_the_verb_prints_every_checkpoint(folder: Path) -> None:
    payload = json.loads(run("history", str(folder), PROMPT, TOKEN, "--heads", "--json").stdout)
    assert [moment["step"] for moment in payload["moments"]] == RunFolder(folder).run_steps()
    rises = [
        (b["log_probability"] - a["log_probability"], a["step"], b["step"]) for a, b in pairwise(payload["moments"])
    ]
    best = max(rises)
    assert payload["learned"] == {"after": best[1], "by": best[2], "rise": best[0]} | {
        "share": payload["learned"]["share"]
    }
    a = open_model(folder).architecture
    assert len(payload["moments"][0]["roles"]["induction"]) == a.n_layers
    assert payload["token"]["token"] == TOKEN
    assert set(payload["moments"][0]["parts"]) == {"token", "position", "attention", "mlp", "biases"}
    final = open_model(folder).explain(PROMPT, TOKEN, ablation="none")
    assert payload["moments"][-1]["log_probability"] == pytest.approx(final.log_probability, abs=1e-5)
    shown = run("history", str(folder), PROMPT, TOKEN, "--heads").stdout
    assert "<- learned" in shown
    assert "read then" in shown


def test_what_cannot_be_traced_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert "not one token" in mistake("history", str(folder), PROMPT, " unheard-of")
    assert "nothing to continue" in mistake("history", str(folder), "", TOKEN)
    assert "holds no text" in mistake("history", str(tmp_path), PROMPT, TOKEN)
    with pytest.raises(ModelNotFound, match="not the folder of a run"):
        RunFolder(tmp_path).run_steps()
    with pytest.raises(InputError, match="after 3 steps; it has them after 0, 1, 2, 4, 8, 12"):
        checkpoint_model(folder, 3)
    with pytest.raises(UnknownToken):
        open_indexed(folder).tokenizer.encode_one("")
    broken = shutil.copytree(folder, tmp_path / "run")
    tensors = broken / "checkpoints" / "step-000002" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    assert "step-000002 cannot be read" in mistake("history", str(broken), PROMPT, TOKEN)
    state = broken / "checkpoints" / "step-000004" / "state.json"
    state.write_text("{}")
    with pytest.raises(CorruptFile, match="does not hold its model"):
        checkpoint_model(broken, 4)


def test_a_difference_of_two_checkpoints(folder: Path) -> None:
    payload = json.loads(run("diff", f"{folder}@2", f"{folder}@8", PROMPT, TOKEN, "--json").stdout)
    change = payload["change"]
    assert change["total"] == pytest.approx(payload["after"]["total"] - payload["before"]["total"])
    assert sum(change["parts"].values()) + change["remainder"] == pytest.approx(change["total"], abs=1e-9)
    same = json.loads(run("diff", str(folder), f"{folder}@{STEPS}", PROMPT, TOKEN, "--json").stdout)
    assert same["change"]["total"] == 0
    assert same["components"] == []
    assert "its logit, the sum of" in run("diff", f"{folder}@2", str(folder), PROMPT, TOKEN).stdout
    assert "different tokenizers" in mistake("diff", f"{folder}@2", "tales", PROMPT, TOKEN)
    assert "no checkpoint after 3 steps" in mistake("diff", f"{folder}@3", str(folder), PROMPT, TOKEN)
