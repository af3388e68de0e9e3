"""A receipt read back: what was requested, and whether every value in it comes out again.

`request_of` gives the arguments of `GPT.receipt` that make the receipt again, for a receipt of this version of the
schema or, after `upgraded`, of an earlier one; a later one is refused. What was typed into the file by hand is checked
like any input.

`compare` holds a receipt against one made anew. A hash, a text, an id or a count must be equal; of numbers that are
computed in floating point, |difference| <= `TOLERANCE` * max(1, |number|) is allowed: another machine sums in another
order. A receipt of this version must have every value and no other. Of one of an earlier version, the values that both
versions have are checked, and those that only one of them has are counted as unchecked: neither held nor failed.

Other weights with the same tokenizer are not refused: an export of the same model has another hash and must give the
same numbers. The check of the hashes fails then, and `reasons` says so. With another tokenizer the ids mean other
words, and nothing is computed (`check_tokenizer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nextword.base.types import Json
from nextword.errors import CorruptFile, InputError, NextwordError
from nextword.sample.settings import Sampling
from nextword.trace.receipt.receipt import VERSION
from nextword.trace.settings import MOST_COMPONENTS, Ablation, Granularity

TOLERANCE = 1e-3  # of max(1, |number|): the difference that is allowed
GROUPS = ("hashes", "model", "prompt", "distribution", "draw", "logit", "attribution", "audit", "lens", "sources")


# Keys of versions 1 and 2 and their names since version 3, by the place of their object; * stands for every entry.
_RENAMED = (
    ((), {"asked": "request", "odds": "distribution"}),
    (("request",), {"against": "contrast", "by": "granularity"}),
    (("distribution",), {"definition": "reference"}),
    (("why",), {"against": "contrast", "causes": "components"}),
    (("why", "components", "*"), {"removed_by": "ablation", "foreseen_change": "estimated_effect"}),
    (("why", "audit"), {"foreseen_correlation": "estimate_correlation"}),
    (("views",), {"without": "leave_one_out", "pairs": "bigrams"}),
)


def upgraded(receipt: Mapping[str, Any]) -> Json:
    """A receipt of an earlier version with the current names of its keys; its version and values stay."""
    current: Any = dict(receipt)
    if current.get("receipt") in (1, 2):
        for place, names in _RENAMED:
            current = _renamed(current, place, names)
        request = current.get("request")
        if isinstance(request, Mapping) and request.get("ablation", "") is None:
            current["request"] = {**request, "ablation": "none"}
    found: Json = current
    return found


def _renamed(value: Any, place: tuple[str, ...], names: Mapping[str, str]) -> Any:
    """A copy of a JSON value in which the object at `place` has other names for its keys; as it is if none is there."""
    if place and place[0] == "*":
        return [_renamed(each, place[1:], names) for each in value] if isinstance(value, list) else value
    if not isinstance(value, Mapping):
        return value
    if place:
        return {key: _renamed(each, place[1:], names) if key == place[0] else each for key, each in value.items()}
    if twice := [key for key, name in names.items() if key in value and name in value]:
        raise CorruptFile(
            f"The receipt has {twice[0]!r} and {names[twice[0]]!r}, which is its newer name; keep one of them."
        )
    return {names.get(key, key): each for key, each in value.items()}


def request_of(receipt: Mapping[str, Any]) -> Json:
    """The arguments of `GPT.receipt` that make the receipt again.

    Raises:
        CorruptFile: It is no receipt, or one of a later version.
        SettingError: A setting is out of its range.
    """
    version = receipt.get("receipt")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CorruptFile(
            f"This is no receipt: its version is {_brief(version)}, not a whole number; write one with explain --html "
            "or --json."
        )
    if version > VERSION:
        raise CorruptFile(
            f"The receipt is of version {version}, and this nextword reads up to {VERSION}; "
            "replay it with a newer nextword."
        )
    try:
        request = {key: receipt["request"][key] for key in (*_REQUESTED, "sampling")}
        prompt = receipt["prompt"]["ids"]
        wrong = [key for key, fits in _REQUESTED.items() if not fits(request[key])]
        if wrong or not isinstance(prompt, list) or not all(map(_is_whole, prompt)):
            raise ValueError(f"{wrong[0] if wrong else 'prompt'} is none")
        if request["sampling"] is not None:
            request["sampling"] = _sampling_of(request["sampling"])
        return {"prompt": prompt, **request}
    except NextwordError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptFile(f"The receipt lacks what it takes to replay it ({error!r}); make it anew.") from error


def _is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_whole_or_none(value: object) -> bool:
    return value is None or _is_whole(value)


_REQUESTED: dict[str, Callable[[Any], bool]] = {
    "token": _is_whole_or_none,
    "contrast": _is_whole_or_none,
    "seed": _is_whole_or_none,
    "count": lambda value: _is_whole(value) and 1 <= value <= MOST_COMPONENTS,
    "granularity": lambda value: value in get_args(Granularity),
    "ablation": lambda value: value in get_args(Ablation),
    "reference": lambda value: value is None or isinstance(value, str),
}


def _sampling_of(payload: Mapping[str, Any]) -> Sampling:
    """The settings from their JSON. Raises SettingError; TypeError or ValueError for a value of another type."""
    settings: Json = {
        name: value if name == "top_k" else float(value) for name, value in payload.items() if name != "logit_bias"
    }
    if not _is_whole(settings.get("top_k")):
        raise TypeError("top_k is no whole number")
    bias = {int(id): -math.inf if value is None else float(value) for id, value in payload["logit_bias"]}
    return Sampling(**settings, logit_bias=bias)


def check_tokenizer(receipt: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Raise InputError unless a model with these `hashes` has the tokenizer of the receipt's."""
    if _hash(receipt, "tokenizer") != hashes["tokenizer"]:
        raise InputError(
            "The receipt was made by a model with another tokenizer, so its token ids mean other words here; "
            "give the receipt's own model with --model."
        )


def reasons(receipt: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Why a receipt may differ from one made again, as sentences: other weights, another text, another nextword."""
    found = []
    if _hash(receipt, "weights") != _hash(again, "weights"):
        found.append("The weights are not the receipt's, by their hash; give the receipt's own with --model.")
    corpus, corpus_now = _hash(receipt, "corpus"), _hash(again, "corpus")
    if corpus is None and corpus_now is not None:
        found.append("The receipt was made without an indexed text, and now there is one.")
    elif corpus != corpus_now:
        which = "not here" if corpus_now is None else "not the receipt's, by its hash"
        found.append(f"The indexed text is {which}; give the receipt's own with --text.")
    writer, now = receipt.get("nextword"), again.get("nextword")
    if writer != now:
        found.append(f"The receipt was written by nextword {_brief(writer)}; this is {_brief(now)}.")
    return found


def _hash(receipt: Mapping[str, Any], name: str) -> Any:
    hashes = receipt.get("hashes")
    return hashes.get(name) if isinstance(hashes, Mapping) else None


def model_of(receipt: Mapping[str, Any]) -> str:
    """The name under which the receipt's model was opened. Raises CorruptFile without one."""
    model = receipt.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(name, str):
        raise CorruptFile("The receipt does not name its model; say where it is with --model.")
    return name


def has_text(receipt: Mapping[str, Any]) -> bool:
    """Whether a receipt refers to an indexed text, the model's own or one that was requested."""
    return _hash(receipt, "corpus") is not None


def text_folder_of(receipt: Mapping[str, Any]) -> Path | None:
    """The folder of the indexed text that was requested, None if none was."""
    request = receipt.get("request")
    folder = request.get("text") if isinstance(request, Mapping) else None
    return Path(folder) if isinstance(folder, str) else None


@dataclass(frozen=True)
class Check:
    """The comparison of one group of a receipt.

    Args:
        group: Its name, one of `GROUPS` or "views".
        numbers: The number of numbers and texts that were compared.
        worst: The largest difference, in units of max(1, |number|).
        differs: The first place where the group does not hold, as in "components.3.claim: 0.5 in the receipt, 0.4 now";
            None if it holds.
        unchecked: The number of places that only one version of the schema has.
    """

    group: str
    numbers: int
    worst: float
    differs: str | None
    unchecked: int

    @property
    def holds(self) -> bool:
        """Whether no value differs by more than `TOLERANCE`."""
        return self.differs is None


def compare(receipt: Mapping[str, Any], again: Mapping[str, Any]) -> list[Check]:
    """Each group of a receipt compared with that of one made again, hashes first; the views only if it has any."""
    version = receipt.get("receipt")
    earlier = isinstance(version, int) and version < VERSION
    groups = [*GROUPS, "views"] if "views" in receipt else GROUPS
    return [_check(group, _group(receipt, group), _group(again, group), earlier) for group in groups]


def _group(receipt: Mapping[str, Any], group: str) -> Any:
    """The values of a receipt that belong to a group."""
    why = receipt.get("why")
    why = why if isinstance(why, Mapping) else {}
    match group:
        case "model":
            # The same model may be opened by another name. Surplus keys are values that nobody checks.
            model, keys = receipt.get("model"), dict.fromkeys(sorted({*receipt} - {"views"}), True)
            facts = {key: model[key] for key in model if key != "name"} if isinstance(model, Mapping) else model
            return {"model": facts, "keys": keys}
        case "logit":
            found = {key: why.get(key) for key in ("token", "contrast", "about")}
            return {**found, "keys": dict.fromkeys(why, True)}
        case "attribution":
            components = _components(why, lambda key: key not in _TESTED)
            return {
                **{key: why.get(key) for key in ("logit", "above_mean", "claims", "rest")},
                "components": components,
            }
        case "audit":
            return {"audit": why.get("audit"), "components": _components(why, lambda key: key in _TESTED)}
        case "sources":
            sources = receipt.get("sources")
            # The text's hash is among the hashes, its folder may differ.
            return {**sources, "text": None} if isinstance(sources, Mapping) else sources
        case _:
            return receipt.get(group)


_TESTED = ("ablation", "expected", "measured", "estimated_effect", "logprob_change", "holds")


def _components(why: Mapping[str, Any], wanted: Callable[[str], bool]) -> Any:
    """The components of an explanation with the keys that are `wanted`; as they are if they are no objects."""
    components = why.get("components")
    if not isinstance(components, Sequence) or not all(isinstance(component, Mapping) for component in components):
        return components
    return [{key: value for key, value in component.items() if wanted(key)} for component in components]


def _check(group: str, here: Any, now: Any, earlier: bool) -> Check:
    """Compare a group in the receipt with the same made now; `earlier`: the receipt is of an earlier version."""
    numbers, worst, differs, unchecked = 0, 0.0, None, 0
    for path, first, second, difference in _differences(here, now, "", earlier):
        if difference is None:
            unchecked += 1
            continue
        numbers, worst = numbers + 1, max(worst, difference)
        if difference > TOLERANCE and differs is None:
            differs = f"{path or group}: {_brief(first)} in the receipt, {_brief(second)} now"
    return Check(group, numbers, worst, differs, unchecked)


def _differences(here: Any, now: Any, path: str, earlier: bool) -> Iterator[tuple[str, Any, Any, float | None]]:
    """Every number and text of both: its path, its two values and their difference.

    The difference is infinite where a text, a count or the structure differs, and None for a key that only one of them
    has where the receipt is of an `earlier` version.
    """
    if isinstance(here, Mapping) and isinstance(now, Mapping) and (earlier or here.keys() == now.keys()):
        for key in dict.fromkeys([*here, *now]):
            inner = f"{path}.{key}".lstrip(".")
            if key in here and key in now:
                yield from _differences(here[key], now[key], inner, earlier)
            else:
                yield inner, here.get(key), now.get(key), None
    elif isinstance(here, list) and isinstance(now, list) and len(here) == len(now):
        for at, (first, second) in enumerate(zip(here, now, strict=True)):
            yield from _differences(first, second, f"{path}.{at}".lstrip("."), earlier)
    elif isinstance(here, float | int) and isinstance(now, float) and not isinstance(here, bool):
        yield path, here, now, _distance(here, now)
    else:
        yield path, here, now, 0.0 if here == now and type(here) is type(now) else math.inf


def _distance(here: float, now: float) -> float:
    """The difference of two numbers in units of max(1, |now|)."""
    try:
        distance = abs(here - now) / max(1.0, abs(now))
    except OverflowError:  # a whole number that no float holds
        return math.inf
    return distance if math.isfinite(distance) else math.inf


def _brief(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
