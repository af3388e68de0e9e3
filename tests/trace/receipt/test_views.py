"""What is drawn beside an account: true to what it was made of, and bounded however long the prompt is."""

from __future__ import annotations

import json
from typing import Any

import pytest

import nextword
from nextword.trace.receipt.replay import compare, request_of
from nextword.trace.receipt.views import DIGITS, SHOWN_PLACES
from nextword.trace.recording import record

SHORT = "The king had three sons, and the youngest"
LONG = "The king had three sons. " * 20 + SHORT


def views(gpt: nextword.GPT, prompt: str) -> dict[str, Any]:
    found: dict[str, Any] = gpt.receipt(prompt, ablation="none").with_views()["views"]
    return found


def test_places_that_do_not_fit_are_one_and_the_weights_keep_their_sum(gpt: nextword.GPT) -> None:
    ids = gpt.tokenizer.encode_prompt(LONG)
    payload = views(gpt, LONG)["attention"]
    assert payload["between"] == len(ids) - SHOWN_PLACES
    spelled = [gpt.tokenizer.token_text(id) for id in ids]
    assert payload["tokens"] == [spelled[0], None, *spelled[1 - SHOWN_PLACES :]]
    recording = record(gpt.reference_model, ids)
    for layer, heads in enumerate(payload["layers"]):
        for head, row in zip(heads, recording.pattern(layer).tolist(), strict=True):
            folded = [row[0], sum(row[1 : 1 - SHOWN_PLACES]), *row[1 - SHOWN_PLACES :]]
            assert head["pattern"] == pytest.approx(folded, abs=0.51 * 10**-DIGITS)


def test_a_short_text_is_shown_whole(gpt: nextword.GPT) -> None:
    found, ids = views(gpt, SHORT), gpt.tokenizer.encode_prompt(SHORT)
    assert found["attention"]["between"] == found["merges"]["earlier"] == found["leave_one_out"]["earlier"] == 0
    assert len(found["attention"]["tokens"]) == len(found["merges"]["tokens"]) == len(ids)
    assert [len(each) for each in found["attention"]["lens"]] == [3] * (gpt.architecture.n_layers + 1)


def test_views_are_of_the_token_of_the_receipt(gpt: nextword.GPT) -> None:
    receipt = gpt.receipt(SHORT, " was", ablation="none").with_views()
    token = receipt["why"]["token"]["id"]
    assert receipt["views"]["leave_one_out"]["token"]["id"] == token
    assert receipt["views"]["leave_one_out"]["before"] == receipt["distribution"]["chosen"]["probability"]
    (pair,) = [row for row in receipt["views"]["bigrams"]["rows"] if row["chosen"]]
    assert pair["ids"] == [token]
    assert pair["probability"] == pytest.approx(receipt["why"]["token"]["probability"], rel=1e-3)


def test_their_size_is_bounded(gpt: nextword.GPT) -> None:
    first, second = (len(json.dumps(views(gpt, "The king had three sons. " * n))) for n in (10, 20))
    heads = gpt.reference_model.architecture.n_layers * gpt.reference_model.architecture.n_heads
    assert second < 1.1 * first < 12_000 + 300 * heads


def test_a_receipt_is_replayed_with_its_views_or_without(gpt: nextword.GPT) -> None:
    receipt = gpt.receipt(SHORT, ablation="none").with_views()
    again = gpt.receipt(**request_of(receipt)).with_views()
    assert [check.group for check in compare(receipt, again)][-1] == "views"
    assert all(check.holds for check in compare(receipt, again))
    old = {key: value for key, value in receipt.items() if key != "views"}
    assert all(check.holds and check.group != "views" for check in compare(old, again))
    receipt["views"]["attention"]["layers"][1][2]["pattern"][0] += 0.1
    assert [check.group for check in compare(receipt, again) if not check.holds] == ["views"]
