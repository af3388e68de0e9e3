"""Leave one out: the probability of a token when one word of the text is missing (erasure: Li et al., 2016).

The plainest experiment on a text: the model reads it again as if the word had never stood there, and the words after it
move up. Nothing inside the model is changed, so the result says which words mattered, and not through which components;
attribution (nextword.trace.logit.attribution) and its audit say that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nextword.predict.engine import Engine
from nextword.sample.sampler import distribute
from nextword.sample.settings import Sampling


@dataclass(frozen=True)
class LeftOut:
    """The result for one word.

    Args:
        start: Position of its first token.
        stop: Position after its last token.
        probability: Of the token after the text without these positions.
    """

    start: int
    stop: int
    probability: float


def leave_one_out(
    engine: Engine, ids: Sequence[int], token: int, spans: Sequence[tuple[int, int]], n_tokens: int
) -> list[LeftOut]:
    """The probability of a token after a text without each of several spans.

    What stands before a span is read once for all.

    Args:
        engine: Reads the text.
        ids: Token ids of the text.
        token: Id of the token whose probability is asked for.
        spans: Start and stop of each, in the order of the text; none of them is all of it.
        n_tokens: The number of ids that stand for tokens, from 0 on; all others have probability 0.

    Raises:
        ContextOverflow: The text is longer than the model's context.
        UnknownToken: An id is outside the vocabulary.
    """
    session, found, fed = engine.open_session(len(ids)), [], 0
    for start, stop in spans:
        logits = session.feed(ids[fed:start]) if start > fed else None
        if stop < len(ids):
            logits = session.feed(ids[stop:])
        assert logits is not None, "nothing is left to read"
        rest = [*ids[:start], *ids[stop:]]
        distribution = distribute(logits, Sampling(), rest, n_tokens=n_tokens)
        found.append(LeftOut(start, stop, float(distribution.probability[token])))
        session.truncate(start)
        fed = start
    return found


def word_spans(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Start and stop of each word of a text, in tokens, from the bytes of its tokens; a special token has none.

    >>> word_spans([b"", b"She", b" ate", b" app", b"le", b"."])
    [(1, 2), (2, 3), (3, 5), (5, 6)]
    """
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
    """Whether a byte is an ASCII letter or digit, or begins a character of two bytes."""
    return 0xC0 <= byte < 0xE0 or (byte < 0x80 and chr(byte).isalnum())
