"""An explanation: why this token here, as numbers, as sentences and as JSON, each claim beside its test.

The claims are contributions to a difference of logits: to a contrast token if one is named, else to the mean logit by
the model's own probabilities. That is the nearest to log p that is additive: what moves it a little moves log p as
much. (The difference to the plain mean of the vocabulary, reported too, is not: most of the vocabulary are words that
were never in question.) What is measured is reported for the same difference and for log p itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nextword.base.types import Json, TokenText
from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.trace.logit.attribution import LogitAttribution, Quantity, attribute
from nextword.trace.logit.audit import Audit, audit
from nextword.trace.logit.components import Component, Head, Layer, Position, Read, Source, Token, component_name
from nextword.trace.logit.lens import logit_lens
from nextword.trace.recording import MakeHook, Recording, check_token, log_probability, record
from nextword.trace.settings import EXPLAIN, Ablation, ExplainSettings, Granularity


@dataclass(frozen=True)
class LensRow:
    """What the model would predict after a layer, by the logit lens.

    Args:
        layer: From 0; -1 is the embedding.
        id: The most probable token.
        log_probability: Of that token, in nats.
        of_token: log p of the explained token, in nats.
    """

    layer: int
    id: int
    log_probability: float
    of_token: float


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a token after a prompt.

    Args:
        recording: Of the prompt.
        token: Id of the explained token.
        contrast: Id of the token it is compared with, None for the mean by the model's own probabilities.
        log_probability: Of the token, in nats, by the model alone: before sampling settings.
        logit: Attribution of the logit.
        above_mean: Attribution of the logit less the vocabulary's mean.
        claims: Attribution of the difference that the claims are about.
        components: Those with the largest contributions to that difference, largest first.
        audit: Test of the claims, in the order of `components`; None if none was asked for.
        lens: What the model would predict after each layer, from the embedding on.
        decode_token: Gives the text of an id.
    """

    recording: Recording
    token: int
    contrast: int | None
    log_probability: float
    logit: LogitAttribution
    above_mean: LogitAttribution
    claims: LogitAttribution
    components: Sequence[Component]
    audit: Audit | None
    lens: Sequence[LensRow]
    decode_token: TokenText

    @property
    def probability(self) -> float:
        """Probability of the token, by the model alone."""
        return math.exp(self.log_probability)

    @property
    def rest(self) -> float:
        """Contribution of all components that are not listed: with the listed ones and the remainder, the total."""
        return (
            self.claims.total
            - self.claims.remainder
            - sum(self.claims.contribution(component) for component in self.components)
        )

    def __repr__(self) -> str:
        token, count = self.decode_token(self.token), len(self.components)
        return f"<Explanation of {token!r}, {self.probability:.2%}: {count} components>"

    def about(self) -> str:
        """The quantity that the claims are about, in words."""
        contrast = "what the model expected" if self.contrast is None else repr(self.decode_token(self.contrast))
        return f"the logit of {self.decode_token(self.token)!r} above {contrast}"

    def words(self, component: Component) -> str:
        """What a component is called in this prompt: "head 3.5 copied ' pie' from 12 tokens back"."""
        match component:
            case Token():
                return f"the last token {self._at(-1)} by itself, as a pair with {self.decode_token(self.token)!r}"
            case Position():
                return f"standing at position {len(self.recording.ids)}"
            case Read(layer, head, source):
                verb = "copied" if self.recording.ids[source] == self.token else "read"
                return f"{component_name(Head(layer, head))} {verb} {self._at(source)} {self._distance(source)}"
            case Head():
                return f"{component_name(component)} in all"
            case Source(source):
                return f"{self._at(source)} {self._distance(source)}, through all heads"
            case _:
                return component_name(component)

    def _at(self, source: int) -> str:
        return repr(self.decode_token(self.recording.ids[source]))

    def _distance(self, source: int) -> str:
        back = len(self.recording.ids) - 1 - source
        return "where it stands" if not back else f"from {back} token{'s' if back > 1 else ''} back"

    def to_json(self) -> Json:
        """As JSON values; no number is rounded, and NaN (a correlation of too few) is null."""
        ids = list(self.recording.ids)
        return {
            "ids": ids,
            "tokens": [self.decode_token(id) for id in ids],
            "token": {
                "id": self.token,
                "token": self.decode_token(self.token),
                "logit": self.logit.total,
                "logprob": self.log_probability,
                "probability": self.probability,
            },
            "contrast": None
            if self.contrast is None
            else {"id": self.contrast, "token": self.decode_token(self.contrast)},
            "about": self.about(),
            "logit": self._attribution(self.logit),
            "above_mean": self._attribution(self.above_mean),
            "claims": self._attribution(self.claims),
            "components": [self._component(number) for number in range(len(self.components))],
            "rest": self.rest,
            "audit": self.audit and _audit(self.audit),
            "lens": [
                {"layer": row.layer, "id": row.id, "token": self.decode_token(row.id)}
                | {"logprob": row.log_probability, "logprob_of_token": row.of_token}
                | {"probability": math.exp(row.log_probability), "probability_of_token": math.exp(row.of_token)}
                for row in self.lens
            ],
        }

    def _attribution(self, attribution: LogitAttribution) -> Json:
        layers = range(len(attribution.reads))
        return {
            "total": attribution.total,
            "remainder": attribution.remainder,
            "relative_remainder": attribution.relative_remainder,
            "parts": attribution.parts(),
            "layers": [
                {part: attribution.contribution(Layer(layer, part)) for part in ("attention", "mlp")}
                for layer in layers
            ],
            "sources": attribution.reads.sum((0, 1)).tolist(),
            "heads": [
                [attribution.contribution(Head(layer, head)) for head in range(attribution.reads.shape[1])]
                for layer in layers
            ],
        }

    def _component(self, number: int) -> Json:
        component = self.components[number]
        payload = {
            "kind": type(component).__name__.lower(),
            **dataclasses.asdict(component),
            "words": self.words(component),
        }
        payload |= {"claim": self.claims.contribution(component)}
        if self.audit is None:
            return payload
        finding = self.audit.findings[number]
        payload |= {"ablation": finding.ablation, "expected": finding.expected, "measured": finding.measured}
        changes = {"estimated_effect": -finding.estimated_effect, "logprob_change": -finding.log_probability}
        return payload | changes | {"holds": finding.holds}


def explain(
    model: Transformer,
    ids: Sequence[int],
    decode_token: TokenText,
    token: int | None = None,
    contrast: int | None = None,
    *,
    count: int = EXPLAIN.count,
    granularity: Granularity = EXPLAIN.granularity,
    ablation: Ablation = EXPLAIN.ablation,
    reference: Sequence[int] | None = None,
    n_tokens: int | None = None,
    make_hook: MakeHook | None = None,
) -> Explanation:
    """Why a model predicts a token after a prompt.

    Args:
        model: The reference model.
        ids: The prompt's token ids.
        decode_token: Gives the text of an id.
        token: Id of the token to explain, None: the most probable one.
        contrast: Id of the token to compare it with, None: the mean by the model's own probabilities.
        count: The number of components to list.
        granularity: What the components are (`LogitAttribution.contributions`).
        ablation: How the audit ablates them, "none": no audit.
        reference: Token ids that means and resamples are taken from, None: the prompt without its last token.
        n_tokens: The number of ids that stand for tokens, from 0 on; None: all of the vocabulary.
        make_hook: Makes the hook of the edits that the model is under, from a position on; None: no edits.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
        SettingError: The name of the granularity or ablation is unknown, or `count` is below 1.
        InputError: The contrast is the token itself, or the reference is too short.
    """
    ExplainSettings(count, granularity, ablation)
    for id in (token, contrast):
        if id is not None:
            check_token(id, model.architecture)
    recording = record(model, ids, make_hook)
    if token is None:
        token = int(recording.logits[:n_tokens].argmax())
    if token == contrast:
        raise InputError(f"{decode_token(token)!r} cannot be its own contrast; name another token, or none.")
    claimed = Quantity(token, "expected" if contrast is None else contrast)
    logit, above_mean, claims = attribute(recording, [Quantity(token), Quantity(token, "mean"), claimed])
    components = claims.top(count, granularity)
    return Explanation(
        recording,
        token,
        contrast,
        float(log_probability(recording.logits, token)),
        logit,
        above_mean,
        claims,
        components,
        None if ablation == "none" else audit(recording, claims, components, ablation, reference=reference),
        _lens(recording, token, n_tokens),
        decode_token,
    )


@torch.no_grad()
def _lens(recording: Recording, token: int, n_tokens: int | None) -> list[LensRow]:
    """The most probable of the first `n_tokens` ids after each layer, and log p of `token`."""
    log_p = logit_lens(recording)
    best = log_p[:, :n_tokens].max(-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), log_p[:, token].tolist(), strict=True)
    return [LensRow(layer, *row) for layer, row in enumerate(rows, -1)]


def _audit(audit: Audit) -> Json:
    return {
        "held": sum(finding.holds for finding in audit.findings),
        "tested": len(audit.findings),
        "rank_correlation": _number(audit.rank_correlation),
        "control": _number(audit.control),
        "estimate_correlation": _number(audit.estimate_correlation),
        "deletion": list(audit.deletion),
        "insertion": list(audit.insertion),
        "random_deletion": list(audit.random_deletion),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
