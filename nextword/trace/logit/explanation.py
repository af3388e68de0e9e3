"""An explanation: why this token here, as numbers, as sentences and as JSON, each claim beside its test.

The claims are shares of a difference of logits: against a rival if one is named, else against the mean logit by the
model's own probabilities. That is the nearest to log p that is additive: what moves it a little moves log p as much.
(The plain mean of the vocabulary, told too, is not: most of it are words that were never in question.) What is
measured is told for the same difference and for log p itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from nextword.errors import InputError, SettingError
from nextword.model.transformer import Transformer
from nextword.trace.logit.ablation import Ablation
from nextword.trace.logit.attribution import Grouping, Ledger, Quantity, account
from nextword.trace.logit.audit import Audit, audit
from nextword.trace.logit.components import Cause, Head, Layer, Neuron, Position, Read, Source, Token, ValueBias
from nextword.trace.logit.lens import logit_lens
from nextword.trace.recording import Recording, check_token, record

Spell = Callable[[int], str]


@dataclass(frozen=True)
class LensRow:
    """What the model would say after a layer (-1: the embedding): its favourite, and log p of the explained token."""

    layer: int
    id: int
    log_probability: float
    of_token: float


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why `token` after `ids`.

    against: the rival's id, None for the mean by the model's own probabilities. logit, above_mean, claims: the
    ledgers of the logit, of the logit less the vocabulary's mean, and of the difference claimed about. causes: the
    largest of them. audit: None if none was asked for.
    """

    recording: Recording
    token: int
    against: int | None
    log_probability: float
    logit: Ledger
    above_mean: Ledger
    claims: Ledger
    causes: Sequence[Cause]
    audit: Audit | None
    lens: Sequence[LensRow]
    spell: Spell

    @property
    def probability(self) -> float:
        """Of the token, by the model alone."""
        return math.exp(self.log_probability)

    @property
    def rest(self) -> float:
        """The share of all causes that are not told; with it and the remainder, those that are make the total."""
        return self.claims.total - self.claims.remainder - sum(self.claims.share(cause) for cause in self.causes)

    def __repr__(self) -> str:
        return f"<Explanation of {self.spell(self.token)!r}, {self.probability:.2%}: {len(self.causes)} causes>"

    def about(self) -> str:
        """What the claims are shares of, in words."""
        rival = "what the model expected" if self.against is None else repr(self.spell(self.against))
        return f"the logit of {self.spell(self.token)!r} above {rival}"

    def words(self, cause: Cause) -> str:
        """A cause as a phrase: "head 3.5 copied ' pie' from 12 tokens back"."""
        match cause:
            case Token():
                return f"the last token {self._at(-1)} by itself, as a pair with {self.spell(self.token)!r}"
            case Position():
                return f"standing at position {len(self.recording.ids)}"
            case Read(layer, head, source):
                verb = "copied" if self.recording.ids[source] == self.token else "read"
                return f"head {layer}.{head} {verb} {self._at(source)} {self._distance(source)}"
            case Head(layer, head):
                return f"head {layer}.{head} in all"
            case Source(source):
                return f"{self._at(source)} {self._distance(source)}, through all heads"
            case Neuron(layer, neuron):
                return f"neuron {layer}.{neuron}"
            case Layer(layer, part):
                return f"layer {layer}'s {'MLP' if part == 'mlp' else part}"
            case ValueBias(layer, head):
                return f"the value bias of head {layer}.{head}"
            case _:
                return f"the bias {cause.name}"

    def _at(self, source: int) -> str:
        return repr(self.spell(self.recording.ids[source]))

    def _distance(self, source: int) -> str:
        back = len(self.recording.ids) - 1 - source
        return "where it stands" if not back else f"from {back} token{'s' if back > 1 else ''} back"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; no number is rounded, and what is not a number (a correlation of too few) is null."""
        ids = list(self.recording.ids)
        return {
            "ids": ids,
            "tokens": [self.spell(id) for id in ids],
            "token": {
                "id": self.token,
                "token": self.spell(self.token),
                "logit": self.logit.total,
                "logprob": self.log_probability,
                "probability": self.probability,
            },
            "against": None if self.against is None else {"id": self.against, "token": self.spell(self.against)},
            "about": self.about(),
            "logit": self._ledger(self.logit),
            "above_mean": self._ledger(self.above_mean),
            "claims": self._ledger(self.claims),
            "causes": [self._cause(number) for number in range(len(self.causes))],
            "rest": self.rest,
            "audit": self.audit and _audit(self.audit),
            "lens": [
                {"layer": row.layer, "id": row.id, "token": self.spell(row.id)}
                | {"logprob": row.log_probability, "logprob_of_token": row.of_token}
                | {"probability": math.exp(row.log_probability), "probability_of_token": math.exp(row.of_token)}
                for row in self.lens
            ],
        }

    def _ledger(self, ledger: Ledger) -> dict[str, Any]:
        layers = range(len(ledger.reads))
        return {
            "total": ledger.total,
            "remainder": ledger.remainder,
            "relative_remainder": ledger.relative_remainder,
            "parts": ledger.parts(),
            "layers": [{part: ledger.share(Layer(layer, part)) for part in ("attention", "mlp")} for layer in layers],
            "sources": ledger.reads.sum((0, 1)).tolist(),
            "heads": [[ledger.share(Head(layer, head)) for head in range(ledger.reads.shape[1])] for layer in layers],
        }

    def _cause(self, number: int) -> dict[str, Any]:
        cause = self.causes[number]
        told = {"kind": type(cause).__name__.lower(), **dataclasses.asdict(cause), "words": self.words(cause)}
        told |= {"claim": self.claims.share(cause)}
        if self.audit is None:
            return told
        finding = self.audit.findings[number]
        told |= {"removed_by": finding.ablation, "expected": finding.expected, "measured": finding.measured}
        changes = {"foreseen_change": -finding.foreseen, "logprob_change": -finding.log_probability}
        return told | changes | {"holds": finding.holds}


def explain(
    model: Transformer,
    ids: Sequence[int],
    spell: Spell,
    token: int | None = None,
    against: int | None = None,
    *,
    count: int = 12,
    by: Grouping = "finest",
    ablation: Ablation | None = "zero",
    reference: Sequence[int] | None = None,
    n_tokens: int | None = None,
) -> Explanation:
    """Why `model` says `token` (None: its favourite among the first `n_tokens` ids) after `ids`.

    spell: the text of an id. count, by: how many causes to tell, of what grain. ablation: how they are removed for the
    audit, None: no audit. reference: token ids that means and resamples are taken from, None: the prompt.
    Raises EmptyPrompt, ContextOverflow, UnknownToken, SettingError, or InputError for a rival that is the token itself
    or a reference that is too short.
    """
    if by not in get_args(Grouping):
        raise SettingError(f"A cause is {', '.join(get_args(Grouping))}, not {by!r}.")
    if count < 1:
        raise SettingError(f"At least one cause is told, not {count}.")
    for id in (token, against):
        if id is not None:
            check_token(id, model.architecture)
    recording = record(model, ids)
    if token is None:
        token = int(recording.logits[:n_tokens].argmax())
    if token == against:
        raise InputError(f"{spell(token)!r} cannot be its own rival; name another token, or none.")
    rival = Quantity(token, "expected" if against is None else against)
    logit, above_mean, claims = account(recording, [Quantity(token), Quantity(token, "mean"), rival])
    causes = claims.top(count, by)
    return Explanation(
        recording,
        token,
        against,
        float(recording.logits.double().log_softmax(-1)[token]),
        logit,
        above_mean,
        claims,
        causes,
        None if ablation is None else audit(recording, claims, causes, ablation, reference=reference),
        _lens(recording, token, n_tokens),
        spell,
    )


@torch.no_grad()
def _lens(recording: Recording, token: int, n_tokens: int | None) -> list[LensRow]:
    log_p = logit_lens(recording)
    best = log_p[:, :n_tokens].max(-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), log_p[:, token].tolist(), strict=True)
    return [LensRow(layer, *row) for layer, row in enumerate(rows, -1)]


def _audit(audit: Audit) -> dict[str, Any]:
    return {
        "held": sum(finding.holds for finding in audit.findings),
        "tested": len(audit.findings),
        "rank_correlation": _number(audit.rank_correlation),
        "control": _number(audit.control),
        "foreseen_correlation": _number(audit.foreseen_correlation),
        "deletion": list(audit.deletion),
        "insertion": list(audit.insertion),
        "random_deletion": list(audit.random_deletion),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
