"""Omission: what becomes of a token's chance when one word of the text is left out.

The plainest experiment on a text: the model reads it again as if the word had never stood there, and the words after it
move up. Nothing inside the model is touched, so this tells which words mattered, and not through which parts; the
account of the parts (nextword.trace.logit.attribution) and its audit tell that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nextword.predict.engine import Engine
from nextword.sample.sampler import distribute
from nextword.sample.settings import Sampling


@dataclass(frozen=True)
class LeftOut:
    """The token's probability after the text without the positions from start to stop."""

    start: int
    stop: int
    probability: float


def leave_one_out(
    engine: Engine, ids: Sequence[int], token: int, spans: Sequence[tuple[int, int]], n_tokens: int
) -> list[LeftOut]:
    """The chance of `token`, one of the first `n_tokens`, after `ids` without each of the spans.

    spans: start and stop of each, in the order of the text, none of them all of it. What comes before a span is read
    once for all. Raises ContextOverflow or UnknownToken.
    """
    session, found, begun = engine.open_session(len(ids)), [], 0
    for start, stop in spans:
        logits = session.feed(ids[begun:start]) if start > begun else None
        if stop < len(ids):
            logits = session.feed(ids[stop:])
        assert logits is not None, "nothing is left to read"
        left = [*ids[:start], *ids[stop:]]
        distribution = distribute(logits, Sampling(), left, n_tokens=n_tokens)
        found.append(LeftOut(start, stop, float(distribution.probability[token])))
        session.truncate(start)
        begun = start
    return found


def words(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Start and stop of the words in a text that is cut into these tokens; marks, which have no bytes, are none."""
    starts = [at for at in range(len(pieces)) if at == 0 or not _goes_on(pieces[at - 1], pieces[at])]
    spans = zip(starts, [*starts[1:], len(pieces)], strict=True)
    return [(start, stop) for start, stop in spans if b"".join(pieces[start:stop]).strip()]


def _goes_on(before: bytes, piece: bytes) -> bool:
    """Whether a word reaches from one token into the next: within a character, or from letter to letter.

    Only of alphabets that put spaces between words, whose letters are ASCII or two bytes of UTF-8.
    """
    if not before or not piece:
        return False
    head = next((byte for byte in reversed(before) if not _is_inner(byte)), 0)
    return _is_inner(piece[0]) or (_is_letter(head) and _is_letter(piece[0]))


def _is_inner(byte: int) -> bool:
    """Whether a byte goes on with a character that another one began."""
    return 0x80 <= byte < 0xC0


def _is_letter(byte: int) -> bool:
    return 0xC0 <= byte < 0xE0 or (byte < 0x80 and chr(byte).isalnum())
