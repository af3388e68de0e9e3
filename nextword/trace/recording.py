"""Recording: one forward pass of the reference model over a prompt, with every hook point of its last token kept.

The prompt is read in two parts that together are one forward pass: all tokens but the last fill a KV cache, then the
last is read with a hook. So the softmax is opened for one row only, a long prompt costs no T x T tensor, and the
cache is still there when the last token is read again under other conditions (`rerun_last`), many rows at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from nextword.errors import ContextOverflow, EmptyPrompt, UnknownToken
from nextword.model.hooks import Hook
from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Block, Transformer
from nextword.model.types import Tensor

if TYPE_CHECKING:
    from nextword.model.architecture import Architecture

PROMPT_CHUNK = 512  # tokens: of a prompt that are read at once, which bounds the memory of activations
MakeHook = Callable[[int], Hook]  # from the position of the first of the tokens that are read under it
# Points that write into the residual, or into its final norm.
_WRITES = re.compile(r"embed|blocks\.\d+(\.attention(\.z)?|\.mlp)?|norm")
FORK_BYTES = 1 << 28  # bytes: of keys and values that `rerun_last` copies at once


class Recorder:
    """A hook that keeps activations and changes nothing.

    Attributes:
        activations: What was seen at each point, by its name, in the order of the pass.
    """

    def __init__(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Keep the points for whose names `wanted` is true; by default all, which opens the softmax of attention."""
        self.activations: dict[str, Tensor] = {}
        self._wanted = wanted

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return self._wanted(name)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        self.activations[name] = tensor
        return tensor


class HookChain:
    """A hook made of several, which act one after the other at every point."""

    def __init__(self, *hooks: Hook) -> None:
        self._hooks = hooks

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return any(hook.wants(name) for hook in self._hooks)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        for hook in self._hooks:
            if hook.wants(name):
                tensor = hook(name, tensor)
        return tensor


class _ChangeRecorder:
    """A hook that applies another one, and keeps what it changed at the points that write into the residual."""

    def __init__(self, hook: Hook) -> None:
        self.changes: dict[str, Tensor] = {}
        self._hook = hook

    def wants(self, name: str) -> bool:
        return self._hook.wants(name)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        changed = self._hook(name, tensor)
        if _WRITES.fullmatch(name):
            self.changes[name] = (changed - tensor)[0]
        return changed


@dataclass(frozen=True)
class Recording:
    """What happened while the last of `ids` was read.

    Args:
        model: The reference model.
        ids: The prompt's T token ids.
        activations: Every hook point (nextword.model.hooks) at the last position, without the batch dimension and with
            time kept as 1; `attention.pattern` is [heads, 1, T].
        kv_cache: Keys and values of all T tokens, one row.
        make_hook: Makes the hook of the edits under which the prompt was read, from a position on; None: no edits.
        changes: At the points that write into the residual, what the edits changed at the last position, in the
            shape of the point.
    """

    model: Transformer
    ids: tuple[int, ...]
    activations: Mapping[str, Tensor]
    kv_cache: KVCache
    make_hook: MakeHook | None = None
    changes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """Logits of the next token [vocab]."""
        return self.activations["logits"][0]

    def values(self, layer: int) -> Tensor:
        """Values [kv heads, T, head] that this layer's heads read at the last position, biases included."""
        return self.kv_cache.layer(layer)[1][0]

    def unedited(self, point: str) -> Tensor:
        """The activations at a point before edits changed them there, in the shape of the point."""
        here = self.activations[point]
        return here - self.changes[point] if point in self.changes else here

    def under_edits(self, hook: Hook) -> Hook:
        """A hook for reading the last token again: the recording's edits, if it has any, and then `hook`."""
        return hook if self.make_hook is None else HookChain(self.make_hook(len(self.ids) - 1), hook)

    def pattern(self, layer: int) -> Tensor:
        """Attention weights of the last position [heads, T]."""
        return self.activations[f"blocks.{layer}.attention.pattern"][:, 0]


@torch.no_grad()
def record(model: Transformer, ids: Sequence[int], make_hook: MakeHook | None = None) -> Recording:
    """Read `ids` and keep the activations at the last of them. The model's weights are all of one dtype.

    Args:
        model: The reference model.
        ids: The prompt's token ids.
        make_hook: Makes the hook of the edits to read under, from the position of the first token read; None: none.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
    check_prompt(ids, model.architecture)
    weight = model.embed.weight
    kv_cache = KVCache(model.architecture, len(ids), dtype=weight.dtype, device=weight.device)
    for start in range(0, len(ids) - 1, PROMPT_CHUNK):
        chunk = list(ids[start : min(start + PROMPT_CHUNK, len(ids) - 1)])
        hook = None if make_hook is None else make_hook(start)
        model.states(torch.tensor([chunk], device=weight.device), kv_cache, hook)
        kv_cache.advance(len(chunk))
    points, changes = Recorder(), None if make_hook is None else _ChangeRecorder(make_hook(len(ids) - 1))
    hook = points if changes is None else HookChain(changes, points)
    model(torch.tensor([[ids[-1]]], device=weight.device), kv_cache, hook)
    kv_cache.advance(1)
    seen = {name: tensor[0] for name, tensor in points.activations.items()}
    return Recording(model, tuple(ids), seen, kv_cache, make_hook, {} if changes is None else changes.changes)


@torch.no_grad()
def rerun_last(recording: Recording, rows: int, hook: Callable[[slice], Hook]) -> Tensor:
    """Read the last token again under hooks, several times side by side; the tokens before it are not read again.

    Args:
        recording: Of the prompt.
        rows: The number of times.
        hook: Makes the hook for a slice of the rows: a long prompt is read again in several batches.

    Returns:
        Logits [rows, vocab].
    """
    a, n = recording.model.architecture, len(recording.ids)
    row_bytes = 2 * a.n_layers * a.n_kv_heads * a.head_size * n * recording.logits.element_size()
    at_once = max(1, FORK_BYTES // row_bytes)
    logits = []
    for start in range(0, rows, at_once):
        batch = slice(start, min(start + at_once, rows))
        kv_cache = _fork(recording, batch.stop - batch.start)
        last = torch.full((batch.stop - batch.start, 1), recording.ids[-1], device=recording.logits.device)
        logits.append(recording.model.forward(last, kv_cache, recording.under_edits(hook(batch)))[:, -1])
    return torch.cat(logits)


def _fork(recording: Recording, rows: int) -> KVCache:
    """A KV cache of all tokens but the last, copied for each of `rows` rows."""
    a, before = recording.model.architecture, len(recording.ids) - 1
    logits = recording.logits
    kv_cache = KVCache(a, before + 1, rows=rows, dtype=logits.dtype, device=logits.device)
    for layer in range(a.n_layers):
        key, value = (each[:, :, :before] for each in recording.kv_cache.layer(layer))
        kv_cache.append(layer, key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1))
    kv_cache.advance(before)
    return kv_cache


def log_probability(logits: Tensor, token: int) -> Tensor:
    """Natural log of a token's probability, computed in float64: [...] for logits [..., vocab].

    >>> log_probability(torch.tensor([0.0, 0.0]), 1).exp().item()
    0.5
    """
    found: Tensor = logits.double().log_softmax(-1)[..., token]
    return found


def block_of(model: Transformer, layer: int) -> Block:
    """One block of the model."""
    block = model.blocks[layer]
    assert isinstance(block, Block)
    return block


def check_prompt(ids: Sequence[int], architecture: Architecture) -> None:
    """Check that the model can read `ids` at once.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
    """
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
