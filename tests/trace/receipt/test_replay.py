"""Replay: an unchanged receipt holds, every change is found, earlier versions are read, and nonsense is refused."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import nextword
from nextword.errors import CorruptFile, InputError, NextwordError
from nextword.sample.settings import Sampling
from nextword.trace.receipt.receipt import VERSION
from nextword.trace.receipt.replay import TOLERANCE, check_tokenizer, compare, reasons, request_of, upgraded


def replayed(gpt: nextword.GPT, receipt: dict[str, Any]) -> dict[str, Any]:
    return gpt.receipt(**request_of(receipt), name="tales").to_json()


def failures(receipt: dict[str, Any], again: dict[str, Any]) -> list[str]:
    return [check.group for check in compare(receipt, again) if not check.holds]


def test_what_was_not_changed_holds(gpt: nextword.GPT, receipt: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(receipt))
    checks = compare(stored, replayed(gpt, stored))
    assert [check.differs for check in checks] == [None] * len(checks)
    assert sum(check.numbers for check in checks) > 400


@pytest.mark.parametrize(
    ("path", "value", "group"),
    [
        ("hashes.weights", "0" * 64, "hashes"),
        ("model.layers", 99, "model"),
        ("odds", {"rows": []}, "model"),
        ("why.causes", [{"claim": 99.0}], "logit"),
        ("prompt.text", "She ate a pear", "prompt"),
        ("distribution.rows.2.probability", 0.5, "distribution"),
        ("distribution.more.kept", 999, "distribution"),
        ("draw.number", 0.25, "draw"),
        ("draw.interval", [0.2, 0.3], "draw"),
        ("why.token.logprob", -0.1, "logit"),
        ("why.claims.heads.1.2", 9.0, "attribution"),
        ("why.components.0.claim", 9.0, "attribution"),
        ("why.components.0.words", "head 9.9 did it", "attribution"),
        ("why.components.3.measured", 9.0, "audit"),
        ("why.components.3.holds", None, "audit"),
        ("why.audit.deletion.1", 0.0, "audit"),
        ("lens.rows.1.token", " pie", "lens"),
        ("sources.note", "It was recited.", "sources"),
        ("why.claims.total", float("inf"), "attribution"),
        ("why.components", "none", "attribution"),
        ("why.token.logit", 10**400, "logit"),
        ("sources", 3, "sources"),
    ],
)
def test_every_change_is_found(receipt: dict[str, Any], path: str, value: Any, group: str) -> None:
    changed = copy.deepcopy(receipt)
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    inner: Any = changed
    for key in keys:
        inner = inner[key]
    inner[last] = value
    assert group in failures(changed, receipt)


def test_rounding_is_not_a_change(receipt: dict[str, Any]) -> None:
    changed = copy.deepcopy(receipt)
    changed["why"]["claims"]["total"] += TOLERANCE / 2
    assert failures(changed, receipt) == []


SECOND_VERSION = Path(__file__).parent / "version-2.json"  # written by nextword on 2026-11-29, of "She ate an"


def test_a_receipt_of_version_2_holds(gpt: nextword.GPT) -> None:
    old = upgraded(json.loads(SECOND_VERSION.read_text()))
    again = gpt.receipt(**request_of(old), name="tales").with_views()
    checks = compare(old, again)
    assert [check.differs for check in checks] == [None] * len(checks)
    assert sum(check.unchecked for check in checks) == 0
    assert old["receipt"] == 2
    old["why"]["components"][2]["measured"] += 0.5
    assert failures(old, again) == ["audit"]


def first_version(receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt as it was before effects were estimated."""
    old = copy.deepcopy(receipt) | {"receipt": 1}
    del old["why"]["audit"]["estimate_correlation"]
    for component in old["why"]["components"]:
        del component["estimated_effect"]
    return old


def test_names_of_earlier_versions_are_understood_wherever_they_stand() -> None:
    first = {"receipt": 1, "asked": {"by": "head", "against": 7}, "odds": {"definition": {}, "rows": []}}
    assert upgraded(first) == {
        "receipt": 1,
        "request": {"granularity": "head", "contrast": 7},
        "distribution": {"reference": {}, "rows": []},
    }
    assert upgraded({"receipt": 2, "why": [], "views": {"without": 1, "pairs": {}}})["views"] == {
        "leave_one_out": 1,
        "bigrams": {},
    }
    with pytest.raises(CorruptFile, match="'odds' and 'distribution'"):
        upgraded({"receipt": 2, "odds": {}, "distribution": {}})
    assert upgraded({"receipt": 3, "odds": 1}) == {"receipt": 3, "odds": 1}, "today's names are today's"


def test_an_earlier_version_is_checked_in_what_both_have(gpt: nextword.GPT, receipt: dict[str, Any]) -> None:
    old = first_version(receipt)
    again = replayed(gpt, old)
    assert failures(old, again) == []
    unchecked = {check.group: check.unchecked for check in compare(old, again) if check.unchecked}
    assert unchecked == {"audit": 1 + len(receipt["why"]["components"])}
    old["why"]["components"][2]["measured"] += 0.5
    assert failures(old, again) == ["audit"], "what it has is checked as ever"
    assert "audit" in failures(old | {"receipt": VERSION}, receipt), "of today's version every value must be there"


def test_a_later_version_is_refused_by_name(receipt: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile, match=f"version {VERSION + 1}.*newer nextword"):
        request_of(receipt | {"receipt": VERSION + 1})


def test_another_model_text_or_nextword_is_named(gpt: nextword.GPT, receipt: dict[str, Any]) -> None:
    assert reasons(receipt, receipt) == []
    hashes = receipt["hashes"]
    assert "--model" in reasons(receipt | {"hashes": hashes | {"weights": "0"}}, receipt)[0]
    assert "not here" in reasons(receipt | {"hashes": hashes | {"corpus": "0"}}, receipt)[0]
    assert "without an indexed text" in reasons(receipt, receipt | {"hashes": hashes | {"corpus": "0"}})[0]
    assert "0.0.1" in reasons(receipt | {"nextword": "0.0.1"}, receipt)[0]
    check_tokenizer(receipt, gpt.hashes())
    with pytest.raises(InputError, match="another tokenizer"):
        check_tokenizer(receipt | {"hashes": hashes | {"tokenizer": "0"}}, gpt.hashes())


JUNK = (None, "x", 3.5, -1, [], {}, True, "12", 10**400)


@pytest.mark.parametrize(
    "key", ["token", "contrast", "seed", "count", "granularity", "ablation", "reference", "sampling"]
)
@pytest.mark.parametrize("value", JUNK, ids=lambda value: str(value)[:4])
def test_what_was_asked_is_never_trusted(gpt: nextword.GPT, receipt: dict[str, Any], key: str, value: Any) -> None:
    broken = receipt | {
        "request": receipt["request"] | {"ablation": "none", "sampling": None, "count": 1} | {key: value}
    }
    with suppress(NextwordError):  # any other error fails
        replayed(gpt, broken)


@pytest.mark.parametrize("key", ["temperature", "top_k", "top_p", "logit_bias"])
@pytest.mark.parametrize("value", ["x", [], {}, [[1, "x"]], 10**400], ids=lambda value: str(value)[:4])
def test_settings_are_never_trusted(receipt: dict[str, Any], key: str, value: Any) -> None:
    broken = receipt | {"request": receipt["request"] | {"sampling": receipt["request"]["sampling"] | {key: value}}}
    with suppress(NextwordError):  # any other error fails
        assert isinstance(request_of(broken)["sampling"], Sampling)


@pytest.mark.parametrize(
    "broken", [{}, {"receipt": 99}, {"receipt": VERSION}, {"receipt": VERSION, "request": [], "prompt": 3}]
)
def test_what_is_no_receipt_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        request_of(broken)
