"""History: how a run came to say a token after a prompt, checkpoint by checkpoint, and what it read meanwhile.

At every checkpoint: the token's log p, its attribution summed into parts (of the logit above the mean by the model's
own probabilities, as in nextword.trace.logit.explanation) and, if asked for, the roles of all heads.

It was *learned* between the two neighbouring checkpoints with the largest rise of log p, the earlier pair if two are
equal; never, if the probability never gets to twice that of the first checkpoint. Checkpoints are powers of two apart,
so late intervals hold more steps: the interval says when most was gained, not when it was gained fastest. The passage
reported with it is the longest end of prompt and token, of two tokens or more, that stood whole in a row read in that
interval, its last token to be predicted. That it was read is certain: the order of the data is a pure function of seed
and step, of which nextword.trace.text.evidence.exposures is the inverse. That it was the cause is not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextword.base.types import Json
from nextword.corpus.index import Occurrence
from nextword.encode.tokenizer import Tokenizer
from nextword.optimize.order import Order
from nextword.parameters.run_folder import RunFolder
from nextword.predict.torch_engine import checkpoint_model
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.recording import check_token, log_probability, record
from nextword.trace.text.indexed import IndexedText, Place
from nextword.trace.weights.heads import HeadRoles, head_roles

Array = npt.NDArray[np.int64]

LEARNED = math.log(2)  # nats: by which log p has to rise in all
CITED = 20  # sightings: that are cited
AROUND = 8  # tokens: quoted before the passage and after it


@dataclass(frozen=True)
class Moment:
    """What a run's model was at a checkpoint.

    Args:
        step: The number of steps taken.
        log_probability: Of the token, in nats.
        parts: Its attribution by part, in logits (`LogitAttribution.parts`).
        roles: Of all heads, None if they were not asked for.
    """

    step: int
    log_probability: float
    parts: dict[str, float]
    roles: HeadRoles | None


@dataclass(frozen=True)
class Interval:
    """The two neighbouring checkpoints between which a token was learned.

    Args:
        after: Step of the earlier one.
        by: Step of the later one.
        rise: Of log p between them, in nats.
        share: That rise as a fraction of the sum of all rises.
    """

    after: int
    by: int
    rise: float
    share: float


@dataclass(frozen=True)
class Sighting:
    """One time that training read the passage.

    Args:
        step: The step, from 0.
        row: The row of its batch.
        place: Of the passage in the text.
        quote: What stands there, with some tokens on either side.
    """

    step: int
    row: int
    place: Place
    quote: str


@dataclass(frozen=True)
class ReadPassage:
    """A passage that training read in an interval.

    Args:
        passage: Its token ids.
        count: The number of times that it stands in the text.
        times: The number of times that it was read in the interval.
        sightings: The first of these.
    """

    passage: tuple[int, ...]
    count: int
    times: int
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class History:
    """How a run came to predict a token after a prompt.

    Args:
        ids: Token ids of the prompt.
        token: Id of the token.
        moments: One for each checkpoint, in their order.
        learned: The interval in which the token was learned, None if it never was.
        read: The passage that was read meanwhile, None if none was found.
    """

    ids: tuple[int, ...]
    token: int
    moments: tuple[Moment, ...]
    learned: Interval | None
    read: ReadPassage | None

    def to_json(self, tokenizer: Tokenizer) -> Json:
        """As JSON values."""
        payload = dataclasses.asdict(self)
        decode_token = tokenizer.token_text
        payload["tokens"] = [decode_token(id) for id in self.ids]
        payload["token"] = {"id": self.token, "token": decode_token(self.token)}
        for moment, seen in zip(payload["moments"], self.moments, strict=True):
            roles = seen.roles
            moment["roles"] = roles and {key: value.tolist() for key, value in moment["roles"].items()}
        return payload


def trace_history(
    run: Path,
    ids: Sequence[int],
    token: int,
    text: IndexedText,
    order: Order,
    *,
    roles: bool = False,
    begin: int | None = None,
    last: int | None = None,
) -> History:
    """The history of a token after a prompt in a run.

    Args:
        run: The run folder.
        ids: Of the prompt.
        token: Id of the token that is followed.
        text: The run's text.
        order: In which the run reads it.
        roles: Whether to score the heads at every checkpoint.
        begin: The token that starts the texts on which heads are scored.
        last: The step of the last checkpoint that is looked at; None: all are.

    Raises:
        ModelNotFound: The folder has no checkpoint.
        CorruptFile: A checkpoint cannot be read.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are too many ids.
        UnknownToken: An id is outside the vocabulary.
    """
    moments = []
    for step in RunFolder(run).run_steps():
        if last is not None and step > last:
            break
        model = checkpoint_model(run, step)
        check_token(token, model.architecture)
        recording = record(model, ids)
        (attribution,) = attribute(recording, [Quantity(token, "expected")])
        log_p = float(log_probability(recording.logits, token))
        scores = head_roles(model, begin=begin) if roles else None
        moments.append(Moment(step, log_p, attribution.parts(), scores))
    learned = learned_in(moments)
    read = None if learned is None else read_in(text, order, [*ids, token], learned)
    return History(tuple(ids), token, tuple(moments), learned, read)


def learned_in(moments: Sequence[Moment]) -> Interval | None:
    """The neighbouring checkpoints between which log p rose most; None if the token was not learned (see the module).

    >>> learned_in([Moment(step, log_p, {}, None) for step, log_p in ((0, -8.0), (1, -7.5), (2, -1.0), (4, -0.5))])
    Interval(after=1, by=2, rise=6.5, share=0.8666666666666667)
    """
    pairs = list(pairwise(moments))
    rises = [later.log_probability - earlier.log_probability for earlier, later in pairs]
    if max(moment.log_probability for moment in moments) - moments[0].log_probability < LEARNED:
        return None
    best = rises.index(max(rises))
    return Interval(pairs[best][0].step, pairs[best][1].step, rises[best], rises[best] / sum(r for r in rises if r > 0))


def read_in(text: IndexedText, order: Order, ids: Sequence[int], interval: Interval) -> ReadPassage | None:
    """The longest end of some ids, of two tokens or more, that training read in an interval.

    Args:
        text: The run's text.
        order: In which the run reads it.
        ids: Token ids.
        interval: Whose steps are looked at.

    Returns:
        The passage with the times that it was read, None if no end of two tokens was.
    """
    assert order.n_tokens == len(text.shards.tokens), "the order is another text's"
    for length in range(text.index.longest_suffix(ids), 1, -1):
        passage = np.asarray(ids[len(ids) - length :])
        times = 0
        cited: list[Sighting] = []
        for step in range(interval.after, interval.by):
            for row, position in _standing(text, order, passage, step):
                times += 1
                if len(cited) < CITED:
                    document = int(np.searchsorted(text.shards.starts, position, side="right")) - 1
                    offset = position - int(text.shards.starts[document])
                    place = text.place(Occurrence(document, offset, position))
                    cited.append(Sighting(step, row, place, _quote(text, place, length)))
        if times:
            return ReadPassage(tuple(passage.tolist()), text.index.count(passage.tolist()), times, tuple(cited))
    return None


def _standing(text: IndexedText, order: Order, passage: Array, step: int) -> list[tuple[int, int]]:
    """Each place where the passage stands whole in the batch of `step`: the row, and the position in the text."""
    starts = order.starts_of(step)
    positions = (starts[:, None] + np.arange(order.context + 1)) % order.n_tokens
    tokens, offsets = text.shards.tokens[positions], order.context + 2 - len(passage)
    here = np.ones((len(starts), max(offsets, 0)), bool)
    for at, id in enumerate(passage):
        here &= tokens[:, at : at + here.shape[1]] == id
    return [(int(row), int(positions[row, at])) for row, at in np.argwhere(here)]


def _quote(text: IndexedText, place: Place, length: int) -> str:
    """The passage with `AROUND` tokens of its document on either side, as text."""
    begin, end = text.shards.starts[place.document : place.document + 2]
    start = max(int(begin), place.position - AROUND)
    stop = min(int(end), place.position + length + AROUND)
    return text.tokenizer.decode(text.shards.tokens[start:stop].tolist(), skip_special=True)
