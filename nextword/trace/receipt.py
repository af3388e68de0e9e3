"""The receipt of one token: draw, filters, logit, ledger, audit and text as one JSON value that can be checked again.

    receipt   version of this schema: 1        nextword   the version that wrote it
    model     name as it was opened, layers, heads, width, vocab, context
    hashes    weights, tokenizer: SHA-256; corpus: the hash of the indexed text, null without one
    asked     what `replay` asks again: token, against, count, by, ablation, reference, sampling, seed, text
    prompt    text, ids, tokens                lens       what each layer would have said
    odds      rows, more, filters, sampling    draw       how, seed, position, number, interval, segments
    why       the explanation: the logit, its ledger, causes and audit (nextword.trace.explanation)
    sources   what the indexed text says, or null and how to get it (nextword.trace.sources)
    views     only where a page is made of it: what is drawn beside the account (nextword.trace.views)

Model and text are named as they were typed, the text's files by their names: a receipt is given away, and says nothing
else about where its writer keeps things. `web/components/README.md` has every key. The odds are those of the engine
that writes, the account is that of the definition in float32; `odds.definition` has both log p of the token side by
side. Nothing is rounded but `views.attention`.

`compare` holds a receipt against one made anew. A text, an id or a count must be equal; of numbers that are computed in
floating point, |difference| <= `TOLERANCE` * max(1, |number|) is allowed: another machine sums in another order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextword.errors import CorruptFile, NextwordError
from nextword.sample.sampler import Choice, Distribution, Sampling
from nextword.trace.explanation import Explanation, Spell

VERSION = 1
TOLERANCE = 1e-3
ROWS = 10  # of the odds; the rest is one row

How = Literal["drawn", "greedy", "named"]
GROUPS = ("hashes", "prompt", "odds", "draw", "logit", "ledger", "audit", "lens", "sources")


@dataclass(frozen=True)
class Chosen:
    """How the token was come by: drawn (`choice`, with `seed`), the most probable, or named by whoever asked."""

    how: How
    id: int
    odds: Distribution
    n_tokens: int
    sampling: Sampling | None = None
    seed: int | None = None
    choice: Choice | None = None


@dataclass(frozen=True)
class Receipt:
    """A receipt being written.

    sources: what nextword.trace.sources tells. facts: nextword (the version), model, hashes and asked. views: makes
    what is drawn beside the account.
    """

    explanation: Explanation
    chosen: Chosen
    prompt: str
    sources: Mapping[str, Any]
    facts: Mapping[str, Any]
    views: Callable[[], Mapping[str, Any]]

    def with_views(self) -> dict[str, Any]:
        """As JSON values with the views; they take some readings of the prompt more."""
        return {**self.to_json(), "views": dict(self.views())}

    def to_json(self) -> dict[str, Any]:
        """As JSON values, as the module says."""
        why = self.explanation.to_json()
        ids, tokens, lens = why.pop("ids"), why.pop("tokens"), why.pop("lens")
        spell = self.explanation.spell
        token = {"id": self.explanation.token, "token": spell(self.explanation.token)}
        odds = odds_of(self.chosen, spell)
        engine = math.log(max(odds["chosen"]["probability"], 5e-324))
        odds["definition"] = {"logprob": self.explanation.log_probability, "logprob_engine": engine}
        return {
            "receipt": VERSION,
            **self.facts,
            "prompt": {"text": self.prompt, "ids": ids, "tokens": tokens},
            "lens": {"token": token, "rows": lens},
            "odds": odds,
            "draw": draw_of(self.chosen, spell),
            "why": why,
            "sources": dict(self.sources),
        }


def odds_of(chosen: Chosen, spell: Spell) -> dict[str, Any]:
    """The most probable tokens and the chosen one, one row for all others, and what the filters took."""
    shown = _shown(chosen)
    others = np.ones(len(chosen.odds.logits), bool)
    others[shown] = False
    rows = [_row(chosen, id, spell) for id in shown]
    return {
        "rows": rows,
        "more": {
            "tokens": int(others[: chosen.n_tokens].sum()),
            "kept": int((chosen.odds.filtered[others] > 0).sum()),
            "probability": float(chosen.odds.probability[others].sum()),
            "filtered_probability": float(chosen.odds.filtered[others].sum()),
        },
        "filters": [dataclasses.asdict(each) for each in chosen.odds.removed],
        "sampling": None if chosen.sampling is None else sampling_to_json(chosen.sampling),
        "chosen": next(row for row in rows if row["chosen"]),
    }


def _shown(chosen: Chosen) -> list[int]:
    logits = chosen.odds.logits[: chosen.n_tokens]
    best = np.argsort(-logits, kind="stable")[:ROWS].tolist()
    return best if chosen.id in best else [*best[: ROWS - 1], chosen.id]


def _row(chosen: Chosen, id: int, spell: Spell) -> dict[str, Any]:
    odds = chosen.odds
    return {
        "id": id,
        "token": spell(id),
        "logit": float(odds.logits[id]),
        "probability": float(odds.probability[id]),
        "filtered_probability": float(odds.filtered[id]),
        "removed_by": odds.remover(id),
        "rank": int((odds.logits > odds.logits[id]).sum()) + 1,
        "chosen": id == chosen.id,
    }


def draw_of(chosen: Chosen, spell: Spell) -> dict[str, Any]:
    """Where the random number fell on the line of the filtered probabilities, laid end to end in the order of ids."""
    told: dict[str, Any] = {"how": chosen.how, "token": {"id": chosen.id, "token": spell(chosen.id)}}
    if chosen.choice is None:
        return told | {"seed": None, "position": None, "number": None, "interval": None, "segments": []}
    ends = np.cumsum(chosen.odds.filtered)
    ends /= ends[-1]

    def interval(id: int) -> list[float]:
        return [float(ends[id - 1]) if id else 0.0, float(ends[id])]

    kept = sorted(id for id in _shown(chosen) if chosen.odds.filtered[id] > 0)
    return told | {
        "seed": chosen.seed,
        "position": chosen.choice.position,
        "number": chosen.choice.uniform,
        "interval": interval(chosen.id),
        "segments": [{"id": id, "token": spell(id), "interval": interval(id)} for id in kept],
    }


def sampling_to_json(sampling: Sampling) -> dict[str, Any]:
    """The settings; the logit bias as pairs [id, bias], null for -inf."""
    bias = [[id, None if value == -math.inf else value] for id, value in sampling.logit_bias.items()]
    return {**dataclasses.asdict(sampling), "logit_bias": bias}


def asked_of(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as arguments of `GPT.receipt`, from a receipt of this version.

    Raises CorruptFile if it is none, SettingError for settings out of their range.
    """
    if receipt.get("receipt") != VERSION:
        raise CorruptFile(
            f"This is no receipt that this nextword reads (version {VERSION}); make it anew with explain."
        )
    try:
        asked = dict(receipt["asked"])
        prompt = [int(id) for id in receipt["prompt"]["ids"]]
        if asked["sampling"] is not None:
            bias = {
                int(id): -math.inf if value is None else float(value) for id, value in asked["sampling"]["logit_bias"]
            }
            asked["sampling"] = Sampling(**{**asked["sampling"], "logit_bias": bias})
        keys = ("token", "against", "sampling", "seed", "count", "by", "ablation", "reference")
        return {"prompt": prompt, **{key: asked[key] for key in keys}}
    except NextwordError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"The receipt lacks what it takes to replay it ({error!r}); make it anew.") from error


def model_of(receipt: Mapping[str, Any]) -> str:
    """The name under which the receipt's model was opened. Raises CorruptFile without one."""
    model = receipt.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(name, str):
        raise CorruptFile("The receipt does not name its model; say where it is with --model.")
    return name


def text_folder_of(receipt: Mapping[str, Any]) -> Path | None:
    """The indexed text that was asked for by its folder, None if none was."""
    asked = receipt.get("asked")
    folder = asked.get("text") if isinstance(asked, Mapping) else None
    return Path(folder) if isinstance(folder, str) else None


@dataclass(frozen=True)
class Check:
    """Whether one group of a receipt holds.

    numbers: how many numbers and texts were compared. worst: the largest difference, in units of max(1, |number|).
    differs: the first place where it does not hold, as in "why.causes.3.claim: 0.5 here, 0.4 now"; None if it holds.
    """

    group: str
    numbers: int
    worst: float
    differs: str | None

    @property
    def holds(self) -> bool:
        """Whether nothing differs by more than is allowed."""
        return self.differs is None


def compare(receipt: Mapping[str, Any], again: Mapping[str, Any]) -> list[Check]:
    """The groups of a receipt against those of one made anew, hashes first; its views if it has any."""
    groups = [*GROUPS, "views"] if "views" in receipt else GROUPS
    return [_check(group, _part(receipt, group), _part(again, group)) for group in groups]


def _part(receipt: Mapping[str, Any], group: str) -> Any:
    why = receipt.get("why")
    why = why if isinstance(why, Mapping) else {}
    match group:
        case "logit":
            return {key: why.get(key) for key in ("token", "against", "about")}
        case "ledger":
            causes = _causes(why, lambda key: key not in _TESTED)
            return {**{key: why.get(key) for key in ("logit", "above_mean", "claims", "rest")}, "causes": causes}
        case "audit":
            return {"audit": why.get("audit"), "causes": _causes(why, lambda key: key in _TESTED)}
        case "sources":
            return {
                **(receipt.get("sources") or {}),
                "text": None,
            }  # its hash is among the hashes, its folder may differ
        case _:
            return receipt.get(group)


_TESTED = ("removed_by", "expected", "measured", "foreseen_change", "logprob_change", "holds")


def _causes(why: Mapping[str, Any], wanted: Any) -> Any:
    causes = why.get("causes")
    if not isinstance(causes, Sequence) or not all(isinstance(cause, Mapping) for cause in causes):
        return causes
    return [{key: value for key, value in cause.items() if wanted(key)} for cause in causes]


def _check(group: str, here: Any, now: Any) -> Check:
    numbers, worst, differs = 0, 0.0, None
    for path, first, second, difference in _differences(here, now, ""):
        numbers += 1
        if difference <= TOLERANCE:
            worst = max(worst, difference)
        elif differs is None:
            differs = f"{path or group}: {_brief(first)} in the receipt, {_brief(second)} now"
            worst = max(worst, difference)
    return Check(group, numbers, worst, differs)


def _differences(here: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any, float]]:
    """Every number and text of both, with how far they are apart: infinitely where no distance is meant."""
    if isinstance(here, Mapping) and isinstance(now, Mapping) and here.keys() == now.keys():
        for key in here:
            yield from _differences(here[key], now[key], f"{path}.{key}".lstrip("."))
    elif isinstance(here, list) and isinstance(now, list) and len(here) == len(now):
        for at, (first, second) in enumerate(zip(here, now, strict=True)):
            yield from _differences(first, second, f"{path}.{at}".lstrip("."))
    elif isinstance(here, float | int) and isinstance(now, float) and not isinstance(here, bool):
        distance = abs(here - now) / max(1.0, abs(now))
        yield path, here, now, distance if math.isfinite(distance) else math.inf
    else:
        yield path, here, now, 0.0 if here == now and type(here) is type(now) else math.inf


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
