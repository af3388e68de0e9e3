"""The receipt: its numbers are the generator's and the explanation's, and replaying finds every change of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.errors import InputError, SettingError, StaleIndex
from nextword.optimize.order import Order
from nextword.parameters.run_folder import RunFolder
from nextword.sample.settings import Sampling
from nextword.trace.receipt.receipt import VERSION
from nextword.trace.receipt.replay import compare, request_of
from nextword.trace.text.evidence import exposures as exposures_of
from nextword.trace.text.indexed import index_files, open_indexed, training_order
from nextword.trace.text.sources import sentence
from nextword.train.plan import Budget
from nextword.train.run import start
from tests.trace.conftest import BOLD, PROMPT

FABLE = "One day the fox saw the grapes, and She ate an apple pie under the tree.\n"


@pytest.fixture(scope="module")
def text(gpt: nextword.GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "fable.txt").write_text("An old story.\n" + FABLE * 12)
    return index_files([str(folder / "fable.txt")], gpt.tokenizer, folder / "indexed").folder


def test_a_receipt_is_plain_json(receipt: dict[str, Any]) -> None:
    assert json.loads(json.dumps(receipt, allow_nan=False)) == receipt
    assert (receipt["receipt"], receipt["nextword"]) == (VERSION, nextword.__version__)


def test_the_word_is_the_one_that_generate_draws(gpt: nextword.GPT, receipt: dict[str, Any]) -> None:
    choice = gpt.generate(PROMPT, sampling=BOLD, seed=7, max_tokens=1).finish().tokens[0]
    draw, row = receipt["draw"], receipt["distribution"]["chosen"]
    assert (draw["token"]["id"], draw["number"], draw["position"]) == (choice.id, choice.uniform, choice.position)
    assert row["filtered_probability"] == pytest.approx(choice.filtered_probability)
    assert (row["rank"], row["chosen"]) == (choice.rank, True)
    low, high = draw["interval"]
    assert low <= draw["number"] < high
    assert high - low == pytest.approx(row["filtered_probability"])
    assert receipt["why"]["token"]["id"] == choice.id


def test_probabilities_sum_to_one_and_the_pieces_of_the_line_do_not_overlap(receipt: dict[str, Any]) -> None:
    distribution = receipt["distribution"]
    for column in ("probability", "filtered_probability"):
        assert sum(row[column] for row in distribution["rows"]) + distribution["more"][column] == pytest.approx(
            1, abs=1e-12
        )
    assert distribution["more"]["tokens"] + len(distribution["rows"]) == receipt["model"]["vocab"]
    assert sum(each["tokens"] for each in distribution["filters"]) == receipt["model"]["vocab"] - 40
    assert distribution["sampling"]["logit_bias"] == [[14, None], [12, 0.5]]
    ends = [end for piece in receipt["draw"]["segments"] for end in piece["interval"]]
    assert ends == sorted(ends)


def test_components_rest_and_remainder_are_the_lead(receipt: dict[str, Any]) -> None:
    why = receipt["why"]
    contributions = (
        sum(component["claim"] for component in why["components"]) + why["rest"] + why["claims"]["remainder"]
    )
    assert contributions == pytest.approx(why["claims"]["total"], abs=1e-9)
    assert why["audit"]["held"] == sum(component["holds"] for component in why["components"])
    assert receipt["distribution"]["reference"]["logprob_engine"] == pytest.approx(why["token"]["logprob"], abs=0.02)


def test_named_and_most_probable_tokens_are_not_drawn(gpt: nextword.GPT) -> None:
    named = gpt.receipt(PROMPT, "z", ablation="none").to_json()
    assert (named["draw"]["how"], named["draw"]["number"], named["draw"]["segments"]) == ("named", None, [])
    assert len(named["distribution"]["rows"]) == 10, "a rare word takes the place of the tenth"
    assert named["distribution"]["rows"][-1]["chosen"]
    most_probable = gpt.receipt(PROMPT, ablation="none").to_json()
    assert (most_probable["draw"]["how"], most_probable["distribution"]["chosen"]["rank"]) == ("greedy", 1)
    cold = gpt.receipt(PROMPT, sampling=Sampling(temperature=0), seed=3, ablation="none").to_json()
    assert cold["draw"]["how"] == "greedy"
    assert [row["removed_by"] for row in cold["distribution"]["rows"]] == [None] + ["greedy"] * 9
    with pytest.raises(InputError, match="named or drawn"):
        gpt.receipt(PROMPT, " pie", sampling=BOLD)
    with pytest.raises(SettingError):
        gpt.receipt(PROMPT, sampling=BOLD, seed=-1)


def test_without_a_text_it_says_how_to_get_one(receipt: dict[str, Any]) -> None:
    assert receipt["sources"]["evidence"] is None
    assert receipt["hashes"]["corpus"] is None
    assert "nextword index" in receipt["sources"]["note"]
    assert "nextword index" in sentence(receipt["sources"])


def test_a_recited_word_is_traced_to_its_line(gpt: nextword.GPT, text: Path) -> None:
    prompt = FABLE[: FABLE.index(" tree")]
    receipt = gpt.receipt(prompt, " tree", ablation="none", text=text).to_json()
    found = receipt["sources"]["evidence"]
    assert found["kind"] == "verbatim"
    (place, *_) = found["longest"]["places"]
    assert place["source"].endswith("fable.txt")
    assert place["match"] == found["longest"]["text"] == prompt + " tree"
    assert place["line"] == 2
    assert place["after"].startswith(".")
    assert found["longest"]["count"] == 12
    assert found["ngrams"][0]["of_token"] == {"count": 12, "share": 1.0}
    assert [test["holds"] for test in found["tests"]] == [False, True, True]
    assert found["exposures"] is None, "a text of files was not trained on"
    assert receipt["hashes"]["corpus"] == receipt["sources"]["text"]["hash"]
    assert "fable.txt:2" in sentence(receipt["sources"])


def test_a_word_that_the_text_does_not_hold(gpt: nextword.GPT, text: Path) -> None:
    receipt = gpt.receipt(PROMPT, " king", ablation="none", text=text).to_json()
    assert receipt["sources"]["evidence"]["kind"] == "none"
    assert receipt["sources"]["evidence"]["longest"] is None
    assert sentence(receipt["sources"]).startswith("text: Neither a passage")
    assert "never" in sentence(receipt["sources"])


def test_another_models_text_is_refused(tiny_folder: Callable[[str], Path], text: Path) -> None:
    with pytest.raises(StaleIndex):
        nextword.open(tiny_folder("llama"), device="cpu").receipt("She", ablation="none", text=text)


def test_a_run_says_when_it_saw_the_passage(tmp_path: Path) -> None:
    run = start(["world:hideaway,mb=0.03"], tmp_path / "run", Budget(steps=2), depth=1)
    for _ in run.train():
        pass
    untraced = nextword.open(run.folder).receipt("The owl", ablation="none", traced=False).to_json()
    assert untraced["sources"]["evidence"] is None
    assert not RunFolder(run.folder).index_path.exists()
    CliRunner().invoke(cli.app, ["index", str(run.folder)])
    receipt = nextword.open(run.folder).receipt("The owl keeps", ablation="none").to_json()
    exposures = receipt["sources"]["evidence"]["exposures"]
    order, steps = training_order(run.folder)
    assert isinstance(order, Order)
    assert exposures["steps"] == steps == 2
    text = open_indexed(run.folder)
    match = receipt["prompt"]["ids"] + [receipt["why"]["token"]["id"]]
    match = match[len(match) - receipt["sources"]["evidence"]["account"]["text_match"] :]
    truth = exposures_of(text, order, match, steps, limit=1000)
    read = {exposure.step + 1 for seen in truth for exposure in seen.exposures}
    assert exposures["places"] == len(truth) == receipt["sources"]["evidence"]["longest"]["count"]
    assert exposures["read"] == sum(bool(seen.exposures) for seen in truth) > 0
    assert exposures["in_steps"] == len(read)
    assert exposures["seen"][0]["steps"][0] == min(read), "those that were read first come first, steps from 1"
    assert all(place["times"] > 0 for place in exposures["seen"])
    again = nextword.open(run.folder).receipt(**request_of(receipt), name=receipt["model"]["name"]).to_json()
    assert all(check.holds for check in compare(receipt, again))
