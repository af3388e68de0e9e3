"""One head or neuron by itself: the tokens that its weights read and write, before any prompt, as JSON values.

All of it is read off the weights as if the part stood next to the embedding and the unembedding; in deep layers, which
read what others wrote, that is a view and not a measurement. Only a head's roles are measured, on texts made for it.
"""

from __future__ import annotations

from nextword.base.types import Json
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.model.transformer import Transformer
from nextword.trace.weights.heads import head_roles
from nextword.trace.weights.vocabulary import (
    Ranked,
    Vocabulary,
    head_attends,
    head_writes,
    neuron_vocabulary,
    singular_directions,
)


def inspect_neuron(model: Transformer, tokenizer: Tokenizer, layer: int, neuron: int, count: int = 8) -> Json:
    """The tokens that drive a neuron most, and those whose logits it then moves.

    Args:
        model: The reference model.
        tokenizer: Of the model.
        layer: The neuron's layer, from 0.
        neuron: Its number, from 0.
        count: The number of tokens in each list.

    Raises:
        InputError: The neuron does not exist.
    """
    payload = _vocabulary(neuron_vocabulary(model, layer, neuron, count), tokenizer)
    return {"kind": "neuron", "layer": layer, "neuron": neuron, **payload}


def inspect_head(
    model: Transformer, tokenizer: Tokenizer, layer: int, head: int, token: int | None = None, count: int = 8
) -> Json:
    """The roles of a head, the strongest directions of its OV matrix, and what it does with one token.

    `roles` is null for a model too small to measure.

    Args:
        model: The reference model.
        tokenizer: Of the model.
        layer: The head's layer, from 0.
        head: Its number, from 0.
        token: Id of the token, None: only what does not depend on one.
        count: The number of tokens in each list.

    Raises:
        InputError: The head does not exist.
        UnknownToken: The token's id is outside the vocabulary.
    """
    directions = singular_directions(model, layer, head, count=count)
    try:
        roles = head_roles(model, begin=tokenizer.bos_id).of(layer, head)
    except InputError:
        roles = None
    return {
        "kind": "head",
        "layer": layer,
        "head": head,
        "roles": roles,
        "directions": [{"strength": strength, **_vocabulary(found, tokenizer)} for strength, found in directions],
        "on": None if token is None else _on(model, tokenizer, layer, head, token, count),
    }


def _on(model: Transformer, tokenizer: Tokenizer, layer: int, head: int, token: int, count: int) -> Json:
    """What a head does with one token: what it attends to from it, and what it writes when it attends to it."""
    promotes, suppresses = head_writes(model, layer, head, token, count)
    return {
        "token": {"id": token, "token": tokenizer.token_text(token)},
        "attends": _ranked(head_attends(model, layer, head, token, count), tokenizer),
        "promotes": _ranked(promotes, tokenizer),
        "suppresses": _ranked(suppresses, tokenizer),
    }


def _vocabulary(found: Vocabulary, tokenizer: Tokenizer) -> Json:
    return {name: _ranked(getattr(found, name), tokenizer) for name in ("reads", "promotes", "suppresses")}


def _ranked(found: Ranked, tokenizer: Tokenizer) -> list[Json]:
    """Tokens with their scores; ids that stand for no token, with which the matrix is padded, are left out."""
    return [
        {"id": id, "token": tokenizer.token_text(id), "score": score}
        for id, score in zip(found.ids, found.scores, strict=True)
        if id < tokenizer.vocab_size
    ]
