"""Bigrams: each column against its own definition, words of one token and of several, with and without a text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nextword import cli
from nextword.errors import ContextOverflow, EmptyPrompt, UnknownToken
from nextword.trace.weights.bigrams import bigrams, lifts, top_bigrams, weight_logits, word_ids
from tests.encode.samples import byte_level, sentencepiece
from tests.trace.models import KINDS, PROMPT, random_model
from tests.trace.text.test_evidence import text_of

MODEL = random_model(KINDS["qk-norm"])


def test_without_blocks_the_weights_are_the_model() -> None:
    model = random_model(replace(KINDS["rmsnorm, grouped"], n_layers=0, windows=()))
    for bigram in bigrams(model, [9], [[id] for id in range(60)], [3, 9]):
        assert bigram.weights == pytest.approx(bigram.probability, rel=1e-12)
        assert bigram.frequency is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_embedding_norm_and_unembedding(kind: str) -> None:
    model = random_model(KINDS[kind])
    x = model.embed.weight[9]
    if model.norm.centred:
        x = x - x.mean()
    normed = x / (x.square().mean() + model.norm.eps).sqrt() * model.norm.weight
    normed = normed if model.norm.bias is None else normed + model.norm.bias
    logits = model.unembed.weight @ normed
    assert torch.allclose(weight_logits(model, 9), logits, atol=1e-12)
    (bigram,) = bigrams(model, [9], [[5]], PROMPT)
    assert bigram.logit == pytest.approx(float(logits[5] - logits.mean()))
    assert bigram.weights == pytest.approx(float(logits.softmax(0)[5]))
    assert bigram.rank == logits.argsort(descending=True).tolist().index(5) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_lift_is_what_the_average_first_word_does_not_say(kind: str) -> None:
    model = random_model(KINDS[kind])
    scores = torch.stack([weight_logits(model, token) for token in range(len(model.embed.weight))])
    above = scores - scores.mean(1, keepdim=True)
    lift = above[9] - above.mean(0)
    assert torch.allclose(lifts(model, 9), lift, atol=1e-10)
    (bigram,) = bigrams(model, [9], [[5]], PROMPT)
    assert bigram.lift == pytest.approx(float(lift[5]))
    assert bigram.lift_rank == lift.argsort(descending=True).tolist().index(5) + 1


def test_one_table_for_both_does_not_tell_which_word_comes_first() -> None:
    model = random_model(replace(KINDS["rmsnorm, grouped"], tied=True))
    sizes = (model.embed.weight.square().mean(-1) + model.norm.eps).sqrt()
    one, other = weight_logits(model, 9)[5] * sizes[9], weight_logits(model, 5)[9] * sizes[5]
    assert float(one) == pytest.approx(float(other))


def test_a_word_of_several_tokens_is_read_along_its_chain() -> None:
    one, several = bigrams(MODEL, [3, 9], [[5], [5, 6, 7]], [1, 3, 9])
    ids = torch.tensor([[1, 3, 9, 5, 6]])
    probabilities = MODEL(ids)[0].softmax(-1)
    assert several.chain == pytest.approx(
        [float(probabilities[2, 5]), float(probabilities[3, 6]), float(probabilities[4, 7])]
    )
    assert several.probability == pytest.approx(float(probabilities[2, 5] * probabilities[3, 6] * probabilities[4, 7]))
    assert several.chain[0] == pytest.approx(one.probability)
    assert several.weights == one.weights == bigrams(MODEL, [9], [[5]], [9])[0].weights


def test_the_text_is_counted(tmp_path: Path) -> None:
    index = text_of(tmp_path, [[5, 6, 7], [5, 6, 7, 5, 9], [5]]).index
    six, chain, absent = bigrams(MODEL, [5], [[6], [6, 7], [8]], [5], index)
    assert (six.count, six.of, six.frequency) == (2, 4, 0.5)
    assert (chain.count, chain.of) == (2, 4)
    assert absent.frequency == 0
    (unknown,) = bigrams(MODEL, [40], [[6]], [40], index)
    assert (unknown.of, unknown.frequency) == (0, None)
    top = top_bigrams(MODEL, [5], [5], index, count=2)
    assert top.frequency is not None
    assert [bigram.ids for bigram in top.frequency] == [(6,), (9,)]


def test_the_most_probable_lead_each_column() -> None:
    top = top_bigrams(MODEL, [9], [3, 9], count=4, n_tokens=50)
    assert top.frequency is None
    assert [bigram.ids[0] for bigram in top.weights] == weight_logits(MODEL, 9)[:50].topk(4).indices.tolist()
    assert [bigram.ids[0] for bigram in top.lift] == lifts(MODEL, 9)[:50].topk(4).indices.tolist()
    log_p = MODEL(torch.tensor([[3, 9]]))[0, -1, :50]
    assert [bigram.ids[0] for bigram in top.probability] == log_p.topk(4).indices.tolist()


def test_words_stand_as_they_do_within_a_text() -> None:
    tokenizer = byte_level()
    assert word_ids(tokenizer, "apple") == word_ids(tokenizer, " apple") == tokenizer.encode(" apple")
    assert word_ids(tokenizer, ";") == tokenizer.encode(";")
    assert word_ids(sentencepiece(), "apple") == sentencepiece().encode("apple")
    with pytest.raises(EmptyPrompt):
        word_ids(tokenizer, "")


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(UnknownToken):
        bigrams(MODEL, [60], [[1]], [1])
    with pytest.raises(UnknownToken):
        bigrams(MODEL, [1], [[60]], [1])
    with pytest.raises(ContextOverflow):
        bigrams(MODEL, [1], [[1, 2, 3]], [1] * 23)


# The command line


def run(*words: str) -> Any:
    result = CliRunner().invoke(cli.app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_verb_prints_three_numbers_side_by_side() -> None:
    payload = json.loads(run("pairs", "apple", "--with", "pie", "unbelievably", "--json").stdout)
    pie, chain = payload["bigrams"]
    assert pie["frequency"] is None
    assert 0 < pie["weights"] < 1
    assert (payload["vocab"], payload["tied"]) == (8192, True)
    assert 1 <= pie["rank"] <= 8192
    assert pie["probability"] == pie["chain"][0]
    assert len(chain["ids"]) == len(chain["chain"]) > 1
    inside = json.loads(run("pairs", "apple", "--with", "pie", "--prompt", "She ate an apple", "--json").stdout)
    assert inside["bigrams"][0]["weights"] == pie["weights"]
    assert inside["bigrams"][0]["probability"] != pie["probability"]
    plain = run("pairs", "apple", "--with", "pie", "unbelievably")
    assert "lift" in plain.stdout
    assert "logit above the mean of all 8,192 tokens" in plain.stderr
    assert "one table for both" in plain.stderr, "tied embeddings are explained"
    assert "tokens; in the weights its first" in plain.stderr
    top = json.loads(run("pairs", "apple", "--top", "3", "--json").stdout)["top"]
    assert top["frequency"] is None
    assert [len(top[name]) for name in ("weights", "lift", "probability")] == [3, 3, 3]


def test_the_verb_refuses_in_one_line() -> None:
    assert "does not end with 'apple'" in run("pairs", "apple", "--with", "pie", "--prompt", "An apple tree").stderr
    assert run("pairs", "apple", "pie").exit_code == 2
    assert "holds no text" in run("pairs", "apple", "--text", "tests").stderr
