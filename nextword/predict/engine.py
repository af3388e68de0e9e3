"""The contract of every engine: token ids in, logits out.

An engine speaks integers and float32; it knows nothing of text, sampling or files. `Engine.open_session` opens a
`Session`, one text held in memory; `feed` reads on and returns the logits of what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from nextword.errors import ContextOverflow, SettingError, UnknownToken
from nextword.model.architecture import Architecture

Logits = npt.NDArray[np.float32]
Weights = Literal["auto", "fp32", "bf16", "int8", "int4"]  # forms: of weights in memory; auto: as they are stored
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
KvCache = Literal["auto", "fp32", "fp16", "int8"]  # auto: fp16 beside integer weights, else fp32
KV_CACHES: tuple[KvCache, ...] = get_args(KvCache)
_Name = TypeVar("_Name", bound=str)


class Session(Protocol):
    """One text being read; `ids` are the tokens read so far, at most `capacity`."""

    ids: list[int]
    capacity: int

    def feed(self, ids: Sequence[int]) -> Logits:
        """Read on by at least one token; the logits of the next, float32 [vocab].

        Raises ContextOverflow or UnknownToken before anything is read.
        """

    def feed_all(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits after each of `ids`, float32 [len(ids), vocab]. Raises as `feed`."""

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""


class Engine(Protocol):
    """A model ready to read; `architecture` is what it computes."""

    architecture: Architecture

    @property
    def description(self) -> str:
        """The implementation and the form of the weights in words, for people who compare numbers."""

    def open_session(self, capacity: int | None = None) -> Session:
        """A new text with room for `capacity` tokens, the model's context if None or more than that."""


class BatchEngine(Engine, Protocol):
    """An engine that reads on in several texts at once, reading the weights once for all of them."""

    def feed_each(self, sessions: Sequence[Any], pieces: Sequence[Sequence[int]]) -> Logits:
        """Read `pieces[i]` on in `sessions[i]`, all different and of this engine; logits float32 [texts, vocab].

        Row i is what `sessions[i].feed(pieces[i])` would give, bit for bit. Raises ContextOverflow or UnknownToken
        before anything is read.
        """


def is_batch_invariant(session: Session) -> bool:
    """Whether a session's logits are the same bits however many tokens are read at once; it says so itself."""
    return bool(getattr(session, "batch_invariant", False))


def check_weights(weights: str) -> Weights:
    """The name of a form of weights, checked. Raises SettingError if there is no such form."""
    return _one_of(WEIGHTS, weights, "Weights")


def check_kv_cache(kv_cache: str) -> KvCache:
    """The name of a form of keys and values, checked. Raises SettingError if there is no such form."""
    return _one_of(KV_CACHES, kv_cache, "Keys and values")


def _one_of(forms: tuple[_Name, ...], asked: str, what: str) -> _Name:
    """`asked` itself. Raises SettingError, about `what`, if it is none of the `forms`."""
    for form in forms:
        if form == asked:
            return form
    raise SettingError(f"{what} can be {', '.join(forms)}, not {asked!r:.40}.")


def check_room(session: Session, ids: Sequence[int], architecture: Architecture) -> None:
    """Check that `session` can be extended by `ids`.

    Args:
        session: A text.
        ids: What is to be read next.
        architecture: Of the model.

    Raises:
        ContextOverflow: The text would be longer than its capacity.
        UnknownToken: An id is outside the vocabulary.
    """
    wanted = len(session.ids) + len(ids)
    if wanted > session.capacity:
        raise ContextOverflow(
            f"The text is {wanted} tokens long, but there is room for {session.capacity} "
            f"(the model's context is {architecture.context}); shorten it."
        )
    for each in ids:
        if not 0 <= each < architecture.vocab:
            raise UnknownToken(f"There is no token {each}: the model's ids go from 0 to {architecture.vocab - 1}.")


def read(session: Session, ids: Sequence[int]) -> Logits:
    """Make `session` hold exactly `ids` (at least one), keeping what they share with what it holds already."""
    cached = cached_prefix(session.ids, ids)
    session.truncate(cached)
    return session.feed(ids[cached:])


def cached_prefix(cached: Sequence[int], ids: Sequence[int]) -> int:
    """The number of tokens of `ids` that need not be read again, because `cached` begins with them.

    The last of `ids` is never one of them: its logits are wanted.

    >>> cached_prefix([5, 6, 7, 8], [5, 6, 9, 8]), cached_prefix([5, 6, 7], [5, 6])
    (2, 1)
    """
    length = 0
    for old, new in zip(cached, ids[:-1], strict=False):
        if old != new:
            break
        length += 1
    return length
