"""How well a model predicts held-out text, in bits per byte.

The sum of -log2 p over the tokens of all documents, divided by the number of bytes they stand for. Each document
is read from its own begin token, which is given and not predicted, and no document sees another; its end is not
predicted either. A document longer than the context is read in windows that overlap by half a context, so every
token is predicted from at least half a context unless the document itself has less. Where the text has a mask,
only the tokens that count are summed, bits and bytes alike.

Bits per byte do not depend on the tokenizer, so models with different vocabularies can be compared. There is no
chance in it: the same weights and text give the same figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import numpy as np
import torch

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.optimize.batches import Text
from nextword.optimize.objective import token_losses

_TOKENS = 4096  # tokens: read in one forward pass


@dataclass(frozen=True)
class Evaluation:
    """Sums over the tokens that were predicted and count.

    Args:
        nats: Of -log p.
        tokens: Their number.
        bytes: Of text that they stand for.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / log(2) / self.bytes

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


@dataclass(frozen=True)
class _Window:
    """Reads tokens[start:end] of the text and scores the predictions of tokens[scored + 1 : end + 1]."""

    start: int
    scored: int
    end: int


@torch.no_grad()
def evaluate(
    model: Transformer, text: Text, limit: int | None = None, between: Callable[[], None] = lambda: None
) -> Evaluation:
    """Measure the loss of a model on a text.

    Args:
        model: On any device, in any dtype.
        text: Its documents are read each by itself.
        limit: Tokens to measure at most, about, in windows spread evenly over the text; None: all.
        between: Called before each few thousand tokens; an exception that it raises ends the measurement.

    Raises:
        InputError: The text has no byte to predict.
    """
    windows = _sample(list(_windows(text.starts, model.architecture.context)), limit)
    nats, tokens, n_bytes = 0.0, 0, 0
    for group in _groups(windows):
        between()
        ids, targets, counts = _read(text, group)
        losses = _losses(model, ids, targets)
        nats += float(losses[counts].sum(dtype=torch.float64))
        tokens += int(counts.sum())
        n_bytes += int(text.token_bytes[targets[counts].numpy()].sum())
    if not n_bytes:
        raise InputError("The held-out text is empty, so nothing can be measured on it; hold out more documents.")
    return Evaluation(nats, tokens, n_bytes)


def _windows(starts: np.ndarray[tuple[int], np.dtype[np.int64]], context: int) -> Iterator[_Window]:
    """The windows of all documents, in order; those of a document score each of its tokens but the first once."""
    for first, after in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        scored, last = first, after - 1
        while scored < last:
            start = scored - context // 2 if scored > first else first
            end = min(start + context, last)
            yield _Window(start, scored, end)
            scored = end


def _sample(windows: list[_Window], limit: int | None) -> list[_Window]:
    """Windows at even distances, as many as read `limit` tokens on average."""
    total = sum(window.end - window.start for window in windows)
    if limit is None or total <= limit:
        return windows
    n = max(1, len(windows) * limit // total)
    return [windows[(2 * i + 1) * len(windows) // (2 * n)] for i in range(n)]


def _groups(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Windows of similar length together, longest first, so that little is padded."""
    windows = sorted(windows, key=lambda window: window.start - window.end)
    done = 0
    while done < len(windows):
        n = max(1, _TOKENS // (windows[done].end - windows[done].start))
        yield windows[done : done + n]
        done += n


def _read(text: Text, windows: list[_Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, targets and which targets count, [windows, time]; shorter windows are padded at their end."""
    time = max(window.end - window.start for window in windows)
    tokens = np.zeros((len(windows), time + 1), dtype=np.int64)
    counts = np.zeros((len(windows), time), dtype=bool)
    for row, window in enumerate(windows):
        read, scored = slice(window.start, window.end + 1), slice(window.scored + 1, window.end + 1)
        tokens[row, : window.end + 1 - window.start] = text.tokens[read]
        into = slice(window.scored - window.start, window.end - window.start)
        counts[row, into] = 1 if text.mask is None else text.mask[scored]
    return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:]), torch.from_numpy(counts)


def _losses(model: Transformer, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each target, [windows, time], in memory of the CPU."""
    device = model.embed.weight.device
    states = model.states(ids.to(device)).flatten(0, 1)
    losses = token_losses(states, model.unembed.weight, targets.to(device).flatten())
    return losses.cpu().view(targets.shape)
