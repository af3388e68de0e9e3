"""One head or neuron by itself: the numbers of the vocabularies, in words, and clear refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError, UnknownToken
from nextword.trace.weights.heads import head_roles
from nextword.trace.weights.units import inspect_head, inspect_neuron
from nextword.trace.weights.vocabulary import Ranked, head_attends, head_writes, neuron_vocabulary, singular_directions
from tests.encode.samples import byte_level
from tests.trace.models import KINDS, random_model

MODEL = random_model(KINDS["qk-norm"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_level()


def part(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["inspect", *words])


def ids(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def expected(found: Ranked, tokenizer: Tokenizer) -> list[int]:
    return [id for id in found.ids if id < tokenizer.vocab_size]


def test_a_neuron_is_described_in_words(tokenizer: Tokenizer) -> None:
    payload, found = inspect_neuron(MODEL, tokenizer, 1, 3, 5), neuron_vocabulary(MODEL, 1, 3, 5)
    for name in ("reads", "promotes", "suppresses"):
        assert ids(payload[name]) == expected(getattr(found, name), tokenizer)
        assert all(row["token"] == tokenizer.token_text(row["id"]) for row in payload[name])


def test_a_head_is_described_in_words_with_and_without_a_token(tokenizer: Tokenizer) -> None:
    alone, payload = inspect_head(MODEL, tokenizer, 2, 1), inspect_head(MODEL, tokenizer, 2, 1, 9, 5)
    assert alone["on"] is None
    assert payload["roles"] == head_roles(MODEL, begin=tokenizer.bos_id).of(2, 1)
    for direction, (strength, found) in zip(
        payload["directions"], singular_directions(MODEL, 2, 1, count=5), strict=True
    ):
        assert direction["strength"] == strength
        assert ids(direction["reads"]) == expected(found.reads, tokenizer)
    promotes, suppresses = head_writes(MODEL, 2, 1, 9, 5)
    assert payload["on"]["token"] == {"id": 9, "token": tokenizer.token_text(9)}
    assert ids(payload["on"]["promotes"]) == expected(promotes, tokenizer)
    assert ids(payload["on"]["suppresses"]) == expected(suppresses, tokenizer)
    assert ids(payload["on"]["attends"]) == expected(head_attends(MODEL, 2, 1, 9, 5), tokenizer)


def test_rows_that_stand_for_no_token_are_left_out() -> None:
    gpt = nextword.open()
    small = byte_level()
    assert small.vocab_size < gpt.architecture.vocab
    payload = inspect_neuron(gpt.reference_model, small, 5, 149, 4000)
    assert 0 < len(payload["reads"]) < 4000
    assert all(row["id"] < small.vocab_size for row in payload["reads"])


def test_the_verb_prints_them() -> None:
    payload = json.loads(part("neuron", "5.149", "--top", "3", "--json").stdout)
    assert (payload["layer"], payload["neuron"], len(payload["promotes"])) == (5, 149, 3)
    assert "suppresses" in part("neuron", "5.149").stdout
    shown = part("head", "5.1", "--on", " apple")
    assert shown.exit_code == 0
    assert "induction" in shown.stdout
    assert "' apple' it would attend to" in shown.stdout
    payload = json.loads(part("head", "5.1", "--json").stdout)
    assert payload["on"] is None
    assert len(payload["directions"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["head", "99.1"], 1, "There is no head 99.1"),
        (["neuron", "5.9999"], 1, "There is no neuron 5.9999"),
        (["head", "5.1", "--on", "unheard-of"], 1, "not one token"),
        (["neuron", "5.1", "--on", " apple"], 2, "for heads"),
        (["head", "five"], 2, "LAYER.NUMBER"),
        (["head", "-1.0"], 2, ""),
        (["layer", "5.1"], 2, "head"),
    ],
)
def test_what_is_not_there_is_refused(words: list[str], code: int, says: str) -> None:
    result = part(*words)
    assert result.exit_code == code
    assert says in result.stderr


def test_tokens_and_parts_that_do_not_exist_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError):
        inspect_head(MODEL, tokenizer, 0, 99)
    with pytest.raises(UnknownToken):
        inspect_head(MODEL, tokenizer, 0, 0, 60)
