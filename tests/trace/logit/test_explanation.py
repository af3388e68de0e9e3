"""What a person is shown: sentences, JSON, the facade's and the command line's refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.errors import EmptyPrompt, InputError, SettingError, UnknownToken
from nextword.sample.settings import Sampling
from nextword.trace.interventions import Scale
from nextword.trace.logit.components import Bias, Head, Layer, Neuron, Position, Source, Token, ValueBias
from nextword.trace.logit.explanation import explain
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

WORDS = "never the that of pear says pie as an oak".split()
COPY = [1, 4, 7, 2, 5, 9, 4]
GREEDY = Sampling(temperature=0)


def decode_token(id: int) -> str:
    return f" {WORDS[id % 10]}"


@pytest.fixture(scope="module")
def gpt(tiny_folder: Callable[[str], Path]) -> nextword.GPT:
    return nextword.open(tiny_folder("llama"), device="cpu")


def test_a_copied_word_is_said_to_be_copied() -> None:
    found = explain(induction_model(), COPY, decode_token)
    assert found.token == 7
    assert [found.words(component) for component in found.components] == ["head 1.0 copied ' as' from 4 tokens back"]
    assert found.audit is not None
    assert found.audit.findings[0].holds


def test_it_shows_itself_in_one_line() -> None:
    found = explain(induction_model(), COPY, decode_token)
    assert repr(found) == f"<Explanation of ' as', {found.probability:.2%}: 1 components>"


def test_what_is_no_granularity_or_no_component_at_all_is_refused() -> None:
    with pytest.raises(SettingError, match="finest, read, head"):
        explain(induction_model(), COPY, decode_token, granularity="word")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="at least 1"):
        explain(induction_model(), COPY, decode_token, count=0)


def test_the_printed_contributions_are_the_whole_lead() -> None:
    for extra in ([], ["--contrast", " pie"]):
        lines = run("explain", "She ate an apple", "--token", ".", *extra)[1].splitlines()
        contributions = [float(line.split()[0]) for line in lines if line.startswith("   ")]
        total = float(lines[1].rsplit(": ", 1)[1].split()[0])
        assert sum(contributions) == pytest.approx(total, abs=0.005 * len(contributions))
        assert "all other components together" in lines[2 + len(contributions)]
        assert any("without it the lead" in line for line in lines) == bool(extra)


def test_every_component_has_words() -> None:
    found = explain(random_model(KINDS["layernorm, learned, biases, tied"]), PROMPT, decode_token, 5, ablation="none")
    words = {
        Token(): "the last token ' that' by itself, as a pair with ' says'",
        Position(): "standing at position 12",
        Head(1, 2): "head 1.2 in all",
        Source(10): "' oak' from 1 token back, through all heads",
        Source(11): "' that' where it stands, through all heads",
        Neuron(0, 7): "neuron 0.7",
        Layer(2, "mlp"): "layer 2's MLP",
        ValueBias(0, 1): "the value bias of head 0.1",
        Bias("norm.bias"): "the bias norm.bias",
    }
    assert {component: found.words(component) for component in words} == words


def test_json_holds_the_attribution_and_its_tests() -> None:
    model = random_model(KINDS["rmsnorm, grouped"])
    payload = json.loads(
        json.dumps(explain(model, PROMPT, decode_token, 5, 17, granularity="head", count=4).to_json(), allow_nan=False)
    )
    logits = model(torch.tensor([PROMPT]))[0, -1]
    assert payload["ids"] == PROMPT
    assert payload["token"]["probability"] == pytest.approx(float(logits.softmax(-1)[5]))
    assert payload["claims"]["total"] == pytest.approx(float(logits[5] - logits[17]))
    assert sum(payload["claims"]["parts"].values()) == pytest.approx(payload["claims"]["total"])
    assert len(payload["components"]) == 4
    assert {"words", "claim", "measured", "logprob_change", "holds", "ablation"} <= payload["components"][0].keys()
    assert payload["lens"][-1]["logprob_of_token"] == pytest.approx(payload["token"]["logprob"])
    assert payload["contrast"]["id"] == 17


def test_without_an_audit_or_with_too_few_components_there_is_no_number_for_it() -> None:
    model = random_model(KINDS["qk-norm"])
    assert explain(model, PROMPT, decode_token, ablation="none").to_json()["audit"] is None
    assert explain(model, PROMPT, decode_token, count=2).to_json()["audit"]["rank_correlation"] is None


def test_a_prompt_of_one_token_and_one_at_full_context_are_explained() -> None:
    model = random_model(KINDS["layernorm, learned, biases, tied"])
    for ids in ([3], (PROMPT * 2)[:24]):
        assert explain(model, ids, decode_token).claims.relative_remainder <= 1e-10


def test_the_facade_explains_what_it_predicts(gpt: nextword.GPT) -> None:
    first = gpt.predict("She ate an apple").top(1)[0]
    found = gpt.explain("She ate an apple")
    assert found.token == first.id
    assert found.probability == pytest.approx(first.probability, rel=1e-4)
    named = gpt.explain("She ate an apple", "a", 7, ablation="mean", reference="The cat sat on the mat")
    assert (named.token, named.contrast) == (gpt.encode("a")[0], 7)


def test_what_the_facade_cannot_explain_is_refused(gpt: nextword.GPT) -> None:
    with pytest.raises(EmptyPrompt):
        gpt.explain("")
    with pytest.raises(UnknownToken, match="not one token"):
        gpt.explain("She", "zebra crossing")
    with pytest.raises(UnknownToken, match="no token 320"):
        gpt.explain("She", 320)
    with pytest.raises(InputError, match="own contrast"):
        gpt.explain("She", "a", "a")
    with pytest.raises(InputError, match="without edits"):
        gpt.with_edit(Scale("blocks.0.mlp", 0.0)).receipt("She")


def test_generation_runs_under_edits(gpt: nextword.GPT) -> None:
    plain = gpt.generate("She ate", max_tokens=8, sampling=GREEDY).finish()
    idle = gpt.with_edit(Scale("blocks.0.mlp", 1.0)).generate("She ate", max_tokens=8, sampling=GREEDY).finish()
    cut = gpt.with_edit(Scale("blocks.0.mlp", 0.0)).with_edit(Scale("blocks.1.attention.z", 0.0, unit=1))
    edited = cut.generate("She ate", max_tokens=8, sampling=GREEDY).finish()
    assert idle.text == plain.text
    assert edited.text != plain.text
    assert gpt.generate("She ate", max_tokens=8, sampling=GREEDY).finish().text == plain.text
    with pytest.raises(InputError):
        gpt.with_edit(Scale("blocks.7.mlp", 0.0))
    with pytest.raises(InputError, match="'x' is no edit"):
        gpt.with_edit("x")  # type: ignore[arg-type]


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_the_command_line_explains(tiny_folder: Callable[[str], Path]) -> None:
    model = ("--model", str(tiny_folder("llama")), "--device", "cpu")
    code, out, _ = run("explain", "She ate an apple", *model, "--granularity", "head", "--top", "5")
    assert code == 0
    assert "of 5 claims hold; rank correlation" in out
    assert out.count("without it log p") == 5
    code, out, _ = run("explain", "She ate an apple", *model, "--ablation", "none", "--json", "--contrast", "a")
    assert code == 0
    assert json.loads(out)["why"]["contrast"]["token"] == "a"
    code, out, err = run("explain", "She", *model, "--token", "zebra crossing")
    assert (code, out) == (1, "")
    assert "not one token" in err
