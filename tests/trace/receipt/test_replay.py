"""Replay: an unchanged receipt holds, every change is found, earlier versions are read, and nonsense is refused."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest

import nextword
from nextword.errors import CorruptFile, InputError, NextwordError
from nextword.sample.sampler import Sampling
from nextword.trace.receipt.receipt import VERSION
from nextword.trace.receipt.replay import TOLERANCE, asked_of, check_tokenizer, compare, reasons


def replayed(gpt: nextword.GPT, told: dict[str, Any]) -> dict[str, Any]:
    return gpt.receipt(**asked_of(told), name="tales").to_json()


def failures(told: dict[str, Any], again: dict[str, Any]) -> list[str]:
    return [check.group for check in compare(told, again) if not check.holds]


def test_what_was_not_changed_holds(gpt: nextword.GPT, told: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(told))
    checks = compare(stored, replayed(gpt, stored))
    assert [check.differs for check in checks] == [None] * len(checks)
    assert sum(check.numbers for check in checks) > 400


@pytest.mark.parametrize(
    ("path", "value", "group"),
    [
        ("hashes.weights", "0" * 64, "hashes"),
        ("prompt.text", "She ate a pear", "prompt"),
        ("odds.rows.2.probability", 0.5, "odds"),
        ("odds.more.kept", 999, "odds"),
        ("draw.number", 0.25, "draw"),
        ("draw.interval", [0.2, 0.3], "draw"),
        ("why.token.logprob", -0.1, "logit"),
        ("why.claims.heads.1.2", 9.0, "ledger"),
        ("why.causes.0.claim", 9.0, "ledger"),
        ("why.causes.0.words", "head 9.9 did it", "ledger"),
        ("why.causes.3.measured", 9.0, "audit"),
        ("why.causes.3.holds", None, "audit"),
        ("why.audit.deletion.1", 0.0, "audit"),
        ("lens.rows.1.token", " pie", "lens"),
        ("sources.note", "It was recited.", "sources"),
        ("why.claims.total", float("inf"), "ledger"),
        ("why.causes", "none", "ledger"),
        ("why.token.logit", 10**400, "logit"),
        ("sources", 3, "sources"),
    ],
)
def test_every_change_is_found(told: dict[str, Any], path: str, value: Any, group: str) -> None:
    changed = copy.deepcopy(told)
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    inner: Any = changed
    for key in keys:
        inner = inner[key]
    inner[last] = value
    assert group in failures(changed, told)


def test_rounding_is_not_a_change(told: dict[str, Any]) -> None:
    changed = copy.deepcopy(told)
    changed["why"]["claims"]["total"] += TOLERANCE / 2
    assert failures(changed, told) == []


def first_version(told: dict[str, Any]) -> dict[str, Any]:
    """The receipt as it was before changes were foreseen."""
    old = copy.deepcopy(told) | {"receipt": 1}
    del old["why"]["audit"]["foreseen_correlation"]
    for cause in old["why"]["causes"]:
        del cause["foreseen_change"]
    return old


def test_an_earlier_version_is_checked_in_what_both_have(gpt: nextword.GPT, told: dict[str, Any]) -> None:
    old = first_version(told)
    again = replayed(gpt, old)
    assert failures(old, again) == []
    unchecked = {check.group: check.unchecked for check in compare(old, again) if check.unchecked}
    assert unchecked == {"audit": 1 + len(told["why"]["causes"])}
    old["why"]["causes"][2]["measured"] += 0.5
    assert failures(old, again) == ["audit"], "what it has is checked as ever"
    assert "audit" in failures(old | {"receipt": VERSION}, told), "of today's version every value must be there"


def test_a_later_version_is_refused_by_name(told: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile, match=f"version {VERSION + 1}.*newer nextword"):
        asked_of(told | {"receipt": VERSION + 1})


def test_another_model_text_or_nextword_is_named(gpt: nextword.GPT, told: dict[str, Any]) -> None:
    assert reasons(told, told) == []
    hashes = told["hashes"]
    assert "--model" in reasons(told | {"hashes": hashes | {"weights": "0"}}, told)[0]
    assert "not here" in reasons(told | {"hashes": hashes | {"corpus": "0"}}, told)[0]
    assert "without an indexed text" in reasons(told, told | {"hashes": hashes | {"corpus": "0"}})[0]
    assert "0.0.1" in reasons(told | {"nextword": "0.0.1"}, told)[0]
    check_tokenizer(told, gpt.hashes())
    with pytest.raises(InputError, match="another tokenizer"):
        check_tokenizer(told | {"hashes": hashes | {"tokenizer": "0"}}, gpt.hashes())


JUNK = (None, "x", 3.5, -1, [], {}, True, "12", 10**400)


@pytest.mark.parametrize("key", ["token", "against", "seed", "count", "by", "ablation", "reference", "sampling"])
@pytest.mark.parametrize("value", JUNK, ids=lambda value: str(value)[:4])
def test_what_was_asked_is_never_trusted(gpt: nextword.GPT, told: dict[str, Any], key: str, value: Any) -> None:
    broken = told | {"asked": told["asked"] | {"ablation": None, "sampling": None, "count": 1} | {key: value}}
    with suppress(NextwordError):  # any other error fails
        replayed(gpt, broken)


@pytest.mark.parametrize("key", ["temperature", "top_k", "top_p", "logit_bias"])
@pytest.mark.parametrize("value", ["x", [], {}, [[1, "x"]], 10**400], ids=lambda value: str(value)[:4])
def test_settings_are_never_trusted(told: dict[str, Any], key: str, value: Any) -> None:
    broken = told | {"asked": told["asked"] | {"sampling": told["asked"]["sampling"] | {key: value}}}
    with suppress(NextwordError):  # any other error fails
        assert isinstance(asked_of(broken)["sampling"], Sampling)


@pytest.mark.parametrize(
    "broken", [{}, {"receipt": 99}, {"receipt": VERSION}, {"receipt": VERSION, "asked": [], "prompt": 3}]
)
def test_what_is_no_receipt_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        asked_of(broken)
