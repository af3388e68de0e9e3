"""Recording: one reading of a prompt by the definition, with every named point of its last token kept.

The prompt is read in two parts that together are one forward pass: all tokens but the last fill a KV cache, then the
last is read with a hook. So the softmax is opened for one row only, a long prompt costs no T x T tensor, and the
cache is still there when the last token is read again under other conditions (`replay`), many rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nextword.errors import ContextOverflow, EmptyPrompt, UnknownToken
from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Block, Transformer
from nextword.model.types import Tensor

if TYPE_CHECKING:
    from nextword.model.architecture import Architecture
    from nextword.model.hooks import Hook

CHUNK = 512  # tokens of a prompt read at once: bounds the activations
FORK_BYTES = 1 << 28  # keys and values copied at once for `replay`


class Recorder:
    """A hook that keeps what it sees at the points that `wanted` chooses, and changes nothing."""

    def __init__(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        self.activations: dict[str, Tensor] = {}
        self._wanted = wanted

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return self._wanted(name)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        self.activations[name] = tensor
        return tensor


@dataclass(frozen=True)
class Recording:
    """What happened while the last of `ids` was read.

    activations: every named point (nextword.model.hooks) at the last position, the batch dimension taken off and time
    kept as 1; `attention.pattern` is [heads, 1, T]. kv_cache: keys and values of all T tokens, one row.
    """

    model: Transformer
    ids: tuple[int, ...]
    activations: Mapping[str, Tensor]
    kv_cache: KVCache

    @property
    def logits(self) -> Tensor:
        """Of the next token [vocab]."""
        return self.activations["logits"][0]

    def values(self, layer: int) -> Tensor:
        """Values [kv heads, T, head] that this layer's heads read at the last position, biases included."""
        return self.kv_cache.layer(layer)[1][0]

    def pattern(self, layer: int) -> Tensor:
        """How much of each position's value each head takes [heads, T]."""
        return self.activations[f"blocks.{layer}.attention.pattern"][:, 0]


@torch.no_grad()
def record(model: Transformer, ids: Sequence[int]) -> Recording:
    """Read `ids` and keep what happens at the last of them. The model's weights are all of one dtype.

    Raises EmptyPrompt, ContextOverflow or UnknownToken.
    """
    check_prompt(ids, model.architecture)
    weight = model.embed.weight
    kv_cache = KVCache(model.architecture, len(ids), dtype=weight.dtype, device=weight.device)
    for start in range(0, len(ids) - 1, CHUNK):
        chunk = list(ids[start : min(start + CHUNK, len(ids) - 1)])
        model.states(torch.tensor([chunk], device=weight.device), kv_cache)
        kv_cache.advance(len(chunk))
    points = Recorder()
    model(torch.tensor([[ids[-1]]], device=weight.device), kv_cache, points)
    kv_cache.advance(1)
    return Recording(model, tuple(ids), {name: tensor[0] for name, tensor in points.activations.items()}, kv_cache)


@torch.no_grad()
def replay(recording: Recording, rows: int, hook: Callable[[slice], Hook]) -> Tensor:
    """Read the last token again, `rows` times side by side, under a hook; logits [rows, vocab].

    `hook` makes the hook for a slice of the rows: long prompts are replayed in several batches. What was read
    before is the same for all rows and is not read again.
    """
    a, n = recording.model.architecture, len(recording.ids)
    row_bytes = 2 * a.n_layers * a.n_kv_heads * a.head_size * n * recording.logits.element_size()
    at_once = max(1, FORK_BYTES // row_bytes)
    logits = []
    for start in range(0, rows, at_once):
        batch = slice(start, min(start + at_once, rows))
        kv_cache = _fork(recording, batch.stop - batch.start)
        last = torch.full((batch.stop - batch.start, 1), recording.ids[-1], device=recording.logits.device)
        logits.append(recording.model.forward(last, kv_cache, hook(batch))[:, -1])
    return torch.cat(logits)


def _fork(recording: Recording, rows: int) -> KVCache:
    """Memories of all tokens but the last, one for each of `rows` rows."""
    a, before = recording.model.architecture, len(recording.ids) - 1
    logits = recording.logits
    kv_cache = KVCache(a, before + 1, rows=rows, dtype=logits.dtype, device=logits.device)
    for layer in range(a.n_layers):
        key, value = (each[:, :, :before] for each in recording.kv_cache.layer(layer))
        kv_cache.append(layer, key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
    kv_cache.advance(before)
    return kv_cache


def block_of(model: Transformer, layer: int) -> Block:
    """One block of the model."""
    block = model.blocks[layer]
    assert isinstance(block, Block)
    return block


def check_prompt(ids: Sequence[int], architecture: Architecture) -> None:
    """Raise EmptyPrompt, ContextOverflow or UnknownToken unless the model can read `ids` at once."""
    if not ids:
        raise EmptyPrompt("There is nothing to explain: give a prompt of at least one character.")
    if len(ids) > architecture.context:
        raise ContextOverflow(
            f"The prompt is {len(ids)} tokens long, but the model's context is {architecture.context}; shorten it."
        )
    for id in ids:
        check_token(id, architecture)


def check_token(id: int, architecture: Architecture) -> None:
    """Raise UnknownToken for an id outside the vocabulary."""
    if not 0 <= id < architecture.vocab:
        raise UnknownToken(f"There is no token {id}: the model's ids go from 0 to {architecture.vocab - 1}.")
