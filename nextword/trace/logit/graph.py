"""The attribution graph: one logit as a flow from tokens, positions and biases, through heads and MLPs, with no gap.

Three things make a model not linear in its residual: attention patterns, the scales of its norms, and the activations
of its MLPs. They are frozen as they were: a pattern and a scale at their values, a neuron at the ratio of its
activation to its `up` (which for a gated neuron is the gate). What is left is linear, gives the same logit, and an
influence in it is exact (Ameisen et al., Circuit Tracing, 2025; here with the MLPs themselves, no replacement model).

    influence of an input   how much of the logit is there because of it, along all paths; all inputs together make
                            up the logit, and what rounding leaves over is told as `remainder`
    influence of a read     (layer, head, source -> position) or an MLP: how much of the logit flows through it
    edge                    how much flows directly from one to the other; what flows into a node flows out of it

The frozen model is the definition under a hook, and influences are its gradients times what was written. The graph
holds the nodes of largest influence; `unseen` is what flows into a node from those that it leaves out.

What is frozen is not explained: why a head looked where it looked, and how strongly a neuron answered, is in no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from nextword.base.types import TokenText
from nextword.model.architecture import Learned
from nextword.model.transformer import Norm, Transformer
from nextword.model.types import Tensor
from nextword.trace.logit.attribution import Quantity
from nextword.trace.logit.linearized import Flow, flow
from nextword.trace.recording import block_of, check_token, record

Granularity = Literal["mlp", "neuron"]
Kind = Literal["token", "position", "bias", "read", "mlp", "neuron", "logit"]


@dataclass(frozen=True)
class Node:
    """What something flows through at a `position` (from 0), by kind:

    token, position   the embedding, and the learned vector, of that position
    bias              the stored vector `name`, added there
    read              what `head` of `layer` takes from `source` and writes at `position`
    mlp, neuron       of `layer`
    logit             the end; its influence is the whole
    """

    kind: Kind
    position: int
    layer: int | None = None
    head: int | None = None
    source: int | None = None
    neuron: int | None = None
    name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values: what belongs to the kind."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


@dataclass(frozen=True)
class Graph:
    """The graph of one quantity after `ids`.

    total: the quantity, as the model computed it. inputs: the sum of the influences of all inputs, those left out too.
    influences: of the nodes kept, largest first after the logit. edges: what flows from a node to another. unseen: for
    each node that is no input, what flows in from nodes that were left out.
    """

    ids: tuple[int, ...]
    quantity: Quantity
    total: float
    inputs: float
    influences: Mapping[Node, float]
    edges: Mapping[tuple[Node, Node], float]
    unseen: Mapping[Node, float]

    @property
    def remainder(self) -> float:
        """What the inputs leave over: rounding."""
        return self.total - self.inputs

    def to_json(self, decode_token: TokenText) -> dict[str, Any]:
        """As JSON values: nodes with their number, edges between numbers, largest first."""
        numbers = {node: number for number, node in enumerate(self.influences)}
        nodes = [
            {"id": numbers[node], **node.to_json(), "influence": influence, "unseen": self.unseen.get(node)}
            for node, influence in self.influences.items()
        ]
        edges = sorted(self.edges.items(), key=lambda item: -abs(item[1]))
        contrast = self.quantity.contrast
        return {
            "ids": list(self.ids),
            "tokens": [decode_token(id) for id in self.ids],
            "token": {"id": self.quantity.token, "token": decode_token(self.quantity.token)},
            "contrast": {"id": contrast, "token": decode_token(contrast)} if isinstance(contrast, int) else contrast,
            "total": self.total,
            "inputs": self.inputs,
            "remainder": self.remainder,
            "nodes": nodes,
            "edges": [{"from": numbers[a], "to": numbers[b], "flow": flow} for (a, b), flow in edges],
        }


def _inputs(found: Flow) -> Iterator[tuple[Callable[[int], Node], Tensor]]:
    """Every kind of input: what makes its node at a position, and its influence at each [T]."""
    model, at = found.model, found.gradients["embed"]
    tokens = model.embed.weight[list(found.ids)]
    yield lambda t: Node("token", t), (tokens * at).sum(1)
    if isinstance(model.architecture.position, Learned):
        yield lambda t: Node("position", t), (model.position.weight[: len(found.ids)] * at).sum(1)
    for name, influence in found.biases():
        yield lambda t, name=name: Node("bias", t, name=name), influence  # type: ignore[misc]


def attribution_graph(
    model: Transformer, ids: Sequence[int], quantity: Quantity, *, count: int = 40, grain: Granularity = "mlp"
) -> Graph:
    """The graph of a quantity after `ids`, with the `count` nodes of largest influence.

    grain: whether an MLP is one node at each position, or each of its neurons is. The model's weights are all of one
    dtype and ask for no gradients. Raises EmptyPrompt, ContextOverflow or UnknownToken.
    """
    for id in (quantity.token, quantity.contrast):
        if isinstance(id, int):
            check_token(id, model.architecture)
    recording = record(model, ids)
    weights = quantity.weights(recording)
    found = flow(model, ids, weights)
    with torch.no_grad():
        total = float(weights.double() @ recording.logits.double())
        inputs = sum(float(influence.double().sum()) for _, influence in _inputs(found))
        kept = _largest(found, count, grain)
        end = Node("logit", len(ids) - 1)
        edges, came = _edges(found, [*kept, end])
    gone = {node: (total if node == end else kept[node]) - flows for node, flows in came.items()}
    return Graph(tuple(ids), quantity, total, inputs, {end: total, **kept}, edges, gone)


def _largest(found: Flow, count: int, grain: Granularity) -> dict[Node, float]:
    """The nodes of largest influence, none of which is 0."""
    groups: list[tuple[Tensor, Callable[..., Node]]] = [(influence, make) for make, influence in _inputs(found)]
    for layer in range(found.model.architecture.n_layers):

        def read(head: int, position: int, source: int, layer: int = layer) -> Node:
            return Node("read", position, layer, head, source)

        def neuron(position: int, number: int, layer: int = layer) -> Node:
            return Node("neuron", position, layer, neuron=number)

        def mlp(position: int, layer: int = layer) -> Node:
            return Node("mlp", position, layer)

        neurons = found.neurons(layer)
        groups.append((found.reads(layer), read))
        groups.append((neurons, neuron) if grain == "neuron" else (neurons.sum(1), mlp))
    best: list[tuple[float, Node]] = []
    for influence, make in groups:
        flat = influence.flatten()
        for at in flat.abs().topk(min(count, len(flat))).indices.tolist():
            if flat[at] != 0:
                best.append((float(flat[at]), make(*map(int, np.unravel_index(at, influence.shape)))))
    best.sort(key=lambda pair: -abs(pair[0]))
    return {node: influence for influence, node in best[:count]}


def _edges(found: Flow, nodes: Sequence[Node]) -> tuple[dict[tuple[Node, Node], float], dict[Node, float]]:
    """What flows between these nodes, and how much of it comes into each that is no input."""
    edges: dict[tuple[Node, Node], float] = {}
    came = {node: 0.0 for node in nodes if node.kind in ("read", "mlp", "neuron", "logit")}
    writes = {node: vector for node in nodes if (vector := _write(found, node)) is not None}
    for reader in came:
        stage, position, covector = _reader(found, reader)
        for node in nodes:
            flows = 0.0
            if node.position == position and node in writes and _written(node) <= stage:
                flows = float(writes[node] @ covector)
            elif node.position == position and node.kind == "bias" and node not in writes:
                flows = _inner_bias(found, node, reader)
            if flows:
                edges[node, reader] = flows
                came[reader] += flows
    return edges, came


def _written(node: Node) -> int:
    """After how many parts (two a layer, attention first) a node's vector is in the residual."""
    match node.kind:
        case "read":
            return 2 * _layer(node) + 1
        case "mlp" | "neuron":
            return 2 * _layer(node) + 2
        case "bias":
            assert node.name is not None
            return 2 * int(node.name.split(".")[1]) + (1 if ".attention." in node.name else 2)
    return 0


def _layer(node: Node) -> int:
    assert node.layer is not None
    return node.layer


def _write(found: Flow, node: Node) -> Tensor | None:
    """What a node adds to the residual at its position [width]; None for what acts inside a part."""
    model, t = found.model, node.position
    match node.kind:
        case "token":
            return model.embed.weight[found.ids[t]]
        case "position":
            return model.position.weight[t]
        case "read":
            a, name, head = model.architecture, f"blocks.{node.layer}.attention", node.head or 0
            value = found.activations[f"{name}.value"][head * a.n_kv_heads // a.n_heads, node.source]
            columns = slice(a.head_size * head, a.head_size * (head + 1))
            output = block_of(model, _layer(node)).attention.output.weight[:, columns]
            return output @ value * found.activations[f"{name}.pattern"][head, t, node.source]
        case "mlp" | "neuron":
            down = block_of(model, _layer(node)).mlp.down.weight
            activation = found.activations[f"blocks.{node.layer}.mlp.activation"][t]
            return down @ activation if node.neuron is None else down[:, node.neuron] * activation[node.neuron]
        case "bias" if node.name is not None and node.name.endswith((".output.bias", ".down.bias")):
            return model.get_parameter(node.name)
    return None


def _reader(found: Flow, node: Node) -> tuple[int, int, Tensor]:
    """When (in parts) and at which position a node reads the residual, and how much a vector there adds [width]."""
    model, a, layer = found.model, found.model.architecture, node.layer
    if layer is None:
        rows = found.weights @ model.unembed.weight
        return 2 * a.n_layers, node.position, _through(model.norm, rows, found.activations["norm.scale"][node.position])
    block, name = block_of(model, layer), f"blocks.{layer}"
    if node.kind == "read":
        assert node.source is not None
        rows = _asked(found, node) @ block.attention.value.weight[_value_rows(found, node)]
        scale = found.activations[f"{name}.attention_norm.scale"][node.source]
        return 2 * layer, node.source, _through(block.attention_norm, rows, scale)
    rows = _drive(found, node) @ block.mlp.up.weight
    scale = found.activations[f"{name}.mlp_norm.scale"][node.position]
    return 2 * layer + (a.residual == "serial"), node.position, _through(block.mlp_norm, rows, scale)


def _value_rows(found: Flow, node: Node) -> slice:
    """Which rows of the value projection a read's head uses."""
    a, head = found.model.architecture, node.head or 0
    first = a.head_size * (head * a.n_kv_heads // a.n_heads)
    return slice(first, first + a.head_size)


def _asked(found: Flow, node: Node) -> Tensor:
    """How much of the quantity a unit of each dimension of the value that a read takes is [head]."""
    name = f"blocks.{node.layer}.attention"
    weight = found.activations[f"{name}.pattern"][node.head, node.position, node.source]
    gradient: Tensor = found.gradients[f"{name}.z"][node.head, node.position]
    return gradient * weight


def _drive(found: Flow, node: Node) -> Tensor:
    """How much of the quantity a unit of each neuron's `up` is [neurons]; for a neuron's node, only its own."""
    drive = found.gradients[f"blocks.{node.layer}.mlp.up"][node.position]
    if node.neuron is None:
        return drive
    own = torch.zeros_like(drive)
    own[node.neuron] = drive[node.neuron]
    return own


def _inner_bias(found: Flow, bias: Node, reader: Node) -> float:
    """What flows into a node from a bias of its own part: of the norm that it reads through, or of value or `up`."""
    model, layer, name = found.model, reader.layer, bias.name or ""
    vector = model.get_parameter(name)
    if layer is None:
        return float(found.weights @ model.unembed.weight @ vector) if name == "norm.bias" else 0.0
    part = "attention" if reader.kind == "read" else "mlp"
    if not name.startswith((f"blocks.{layer}.{part}_norm.", f"blocks.{layer}.{part}.")):
        return 0.0
    if reader.kind != "read":
        drive = _drive(found, reader)
        return float(drive @ (vector if name.endswith(".up.bias") else block_of(model, layer).mlp.up.weight @ vector))
    rows = _asked(found, reader)
    if name.endswith(".value.bias"):
        return float(rows @ vector[_value_rows(found, reader)])
    return float(rows @ block_of(model, layer).attention.value.weight[_value_rows(found, reader)] @ vector)


def _through(norm: Norm, rows: Tensor, scale: Tensor) -> Tensor:
    """What reads a normed residual as what reads the residual [width], the norm's scale held."""
    rows = rows * norm.weight * scale
    return rows - rows.mean(-1, keepdim=True) if norm.centred else rows
