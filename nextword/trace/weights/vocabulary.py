"""Vocabularies straight from the weights: the tokens that a neuron or a head reads and writes, without any text.

Nothing here depends on a prompt, so nothing here says what the model does in one: positions, contexts and the scale of
norms are left out, earlier layers are taken to pass embeddings on as they are, and scores are comparable only within
one vocabulary. Each result is ids and scores, highest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.logit.attribution import through_norm, value_bias
from nextword.trace.recording import block_of, check_token


@dataclass(frozen=True)
class Ranked:
    """Token ids and their scores, highest first."""

    ids: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a head or neuron reads and writes.

    Args:
        reads: Those whose embeddings drive it most.
        promotes: Those whose logits it then raises most.
        suppresses: Those whose logits it then lowers most.
    """

    reads: Ranked
    promotes: Ranked
    suppresses: Ranked


@torch.no_grad()
def neuron_vocabulary(model: Transformer, layer: int, neuron: int, count: int = 10) -> Vocabulary:
    """The embeddings that drive a neuron most (its `up` row), and the logits that an activation of 1 moves.

    A gated neuron's sign also depends on its gate.

    Args:
        model: The reference model.
        layer: The neuron's layer, from 0.
        neuron: Its number, from 0.
        count: The number of tokens in each list.

    Raises:
        InputError: The neuron does not exist.
    """
    _check(model, layer, "neuron", neuron, model.architecture.mlp.width)
    mlp = block_of(model, layer).mlp
    drive = block_of(model, layer).mlp_norm(model.embed.weight) @ mlp.up.weight[neuron]
    logits = _logits(model, mlp.down.weight[:, neuron])
    return Vocabulary(_top(drive, count), _top(logits, count), _top(-logits, count, -1))


@torch.no_grad()
def head_writes(model: Transformer, layer: int, head: int, token: int, count: int = 10) -> tuple[Ranked, Ranked]:
    """The OV circuit (Elhage et al., 2021): what a head that attends to a token promotes, and what it suppresses.

    Args:
        model: The reference model.
        layer: The head's layer, from 0.
        head: Its number, from 0.
        token: Id of the token.
        count: The number of tokens in each list.

    Raises:
        InputError: The head does not exist.
        UnknownToken: The id is outside the vocabulary.
    """
    check_token(token, model.architecture)
    logits = _logits(model, _head_output(model, layer, head, torch.tensor([token]))[0])
    return _top(logits, count), _top(-logits, count, -1)


@torch.no_grad()
def head_attends(model: Transformer, layer: int, head: int, token: int, count: int = 10) -> Ranked:
    """The QK circuit (Elhage et al., 2021), positions left out: the tokens that a head at a token attends to most.

    Args:
        model: The reference model.
        layer: The head's layer, from 0.
        head: Its number, from 0.
        token: Id of the token at which the head stands.
        count: The number of tokens.

    Returns:
        The tokens with the highest attention scores, q.k / sqrt(head size).

    Raises:
        InputError: The head does not exist.
        UnknownToken: The id is outside the vocabulary.
    """
    _check(model, layer, "head", head, model.architecture.n_heads)
    check_token(token, model.architecture)
    a, block = model.architecture, block_of(model, layer)
    read = block.attention_norm(model.embed.weight)
    query = block.attention.query(read[token]).view(a.n_heads, a.head_size)[head]
    key = block.attention.key(read).view(a.vocab, a.n_kv_heads, a.head_size)[:, head * a.n_kv_heads // a.n_heads]
    if a.qk_norm:
        query, key = block.attention.query_norm(query), block.attention.key_norm(key)
    return _top(key @ query * a.head_size**-0.5, count)


@torch.no_grad()
def copying(model: Transformer, layer: int, head: int, tokens: Sequence[int]) -> float:
    """How much a head copies: the fraction of tokens that it promotes above all others when it attends to them.

    Args:
        model: The reference model.
        layer: The head's layer, from 0.
        head: Its number, from 0.
        tokens: Ids of the tokens, which are compared with each other.
    """
    ids = torch.tensor(list(tokens), device=model.embed.weight.device)
    logits = _head_output(model, layer, head, ids) @ through_norm(model, model.unembed.weight[ids]).T
    return float((logits.argmax(1) == torch.arange(len(ids), device=logits.device)).double().mean())


@torch.no_grad()
def singular_directions(
    model: Transformer, layer: int, head: int, directions: int = 3, count: int = 10
) -> list[tuple[float, Vocabulary]]:
    """The strongest singular directions of a head's OV matrix (Millidge & Black, 2022).

    A singular vector has no sign of its own: reads and promotes belong together, and so do their opposites.

    Args:
        model: The reference model.
        layer: The head's layer, from 0.
        head: Its number, from 0.
        directions: The number of directions; a head has as many as it has dimensions.
        count: The number of tokens in each list.

    Returns:
        For each direction its singular value and its tokens, strongest first.

    Raises:
        InputError: The head does not exist.
    """
    _check(model, layer, "head", head, model.architecture.n_heads)
    a, block = model.architecture, block_of(model, layer)
    rows = slice(*(a.head_size * (head * a.n_kv_heads // a.n_heads + step) for step in (0, 1)))
    columns = slice(a.head_size * head, a.head_size * (head + 1))
    value, output = block.attention.value.weight[rows], block.attention.output.weight[:, columns]
    q_out, r_out = torch.linalg.qr(output)  # the product has rank head_size: its SVD is that of a small core
    q_in, r_in = torch.linalg.qr(value.T)
    left, strengths, right = torch.linalg.svd(r_out @ r_in.T)
    read, found = block.attention_norm(model.embed.weight), []
    for number in range(min(directions, a.head_size)):
        logits = _logits(model, q_out @ left[:, number])
        drive = read @ (q_in @ right[number])
        vocabulary = Vocabulary(_top(drive, count), _top(logits, count), _top(-logits, count, -1))
        found.append((float(strengths[number]), vocabulary))
    return found


def _head_output(model: Transformer, layer: int, head: int, ids: Tensor) -> Tensor:
    """What a head writes [len(ids), width] if it attends to the embedding of each id alone, bias left out."""
    _check(model, layer, "head", head, model.architecture.n_heads)
    a, block = model.architecture, block_of(model, layer)
    group = head * a.n_kv_heads // a.n_heads
    read = block.attention_norm(model.embed.weight[ids])
    values = block.attention.value(read).view(len(ids), a.n_kv_heads, a.head_size)[:, group]
    columns = slice(a.head_size * head, a.head_size * (head + 1))
    written: Tensor = (values - value_bias(model, layer)[group]) @ block.attention.output.weight[:, columns].T
    return written


def _logits(model: Transformer, vector: Tensor) -> Tensor:
    """The logits that a vector in the residual adds [vocab], up to the last norm's scale."""
    return through_norm(model, model.unembed.weight) @ vector


def _top(scores: Tensor, count: int, sign: int = 1) -> Ranked:
    """The `count` ids of the highest scores, and these scores times `sign`."""
    best = scores.topk(min(count, len(scores)))
    return Ranked(best.indices.tolist(), [sign * score for score in best.values.tolist()])


def _check(model: Transformer, layer: int, kind: str, unit: int, units: int) -> None:
    """Raise InputError unless the layer has a unit of this number; `kind` is what the error calls the unit."""
    n_layers = model.architecture.n_layers
    if not (0 <= layer < n_layers and 0 <= unit < units):
        raise InputError(
            f"There is no {kind} {layer}.{unit}: layers go from 0 to {n_layers - 1}, {kind}s from 0 to {units - 1}."
        )
