"""The attribution graph: one logit as a flow from tokens, positions and biases, through heads and MLPs, with no gap.

Three things make a model not linear in its residual: attention patterns, the scales of its norms, and the activations
of its MLPs. They are frozen as they were: a pattern and a scale at their values, a neuron at the ratio of its
activation to its `up` (which for a gated neuron is the gate). What is left is linear, gives the same logit, and an
influence in it is exact (Ameisen et al., Circuit Tracing, 2025; here with the MLPs themselves, no replacement model).

    influence of an input   the part of the logit that comes from it, along all paths; all inputs together are the
                            logit, and what rounding leaves over is reported as `remainder`
    influence of a read     (layer, head, source -> position) or an MLP: the part of the logit that flows through it
    edge                    what flows directly from one node to another; what flows into a node flows out of it

The frozen model is the reference model under a hook, and influences are its gradients times what was written. The
graph holds the nodes of largest influence; `unseen` is what flows into a node from those that it leaves out.

What is frozen is not explained: why a head looked where it looked, and how strongly a neuron answered, is in no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nextword.base.types import Json, TokenText
from nextword.model.architecture import Learned
from nextword.model.transformer import Norm, Transformer
from nextword.model.types import Tensor
from nextword.trace.logit.attribution import Quantity
from nextword.trace.logit.components import Bias, Head, Layer, Neuron, component_name
from nextword.trace.logit.linearized import Flow, flow
from nextword.trace.recording import block_of, check_token, record

GraphGranularity = Literal["mlp", "neuron"]
NodeKind = Literal["token", "position", "bias", "read", "mlp", "neuron", "logit"]


@dataclass(frozen=True)
class Node:
    """A node of the graph: something that is written at a position, or the logit at the end.

    Args:
        kind: "token" and "position" are the embedding and the learned vector of the position, "bias" is a stored vector
            that is added there; these are inputs. "read" is what a head writes there by attending to `source`, "mlp" a
            whole MLP, "neuron" one of its neurons; through these the logit flows. "logit" is the end.
        position: Where it is written, from 0.
        layer: Of a read, an MLP or a neuron, from 0.
        head: Of a read.
        source: The position that a read attends to.
        neuron: Number of the neuron.
        name: Of the stored vector, of a bias.
    """

    kind: NodeKind
    position: int
    layer: int | None = None
    head: int | None = None
    source: int | None = None
    neuron: int | None = None
    name: str | None = None

    def to_json(self) -> Json:
        """As JSON values: what belongs to the kind."""
        return {key: value for key, value in self.__dict__.items() if value is not None}


@dataclass(frozen=True)
class Graph:
    """The graph of one quantity after a prompt; all numbers are in logits.

    Args:
        ids: The prompt's token ids.
        quantity: What the graph explains.
        total: The quantity, as the model computed it.
        inputs: The sum of the influences of all inputs, those left out too.
        influences: Of the logit, and then of the nodes kept, largest first.
        edges: What flows from the first node of a pair directly to the second.
        unseen: What flows into a node that is no input from nodes that were left out.
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
        """The total less the influences of all inputs: rounding."""
        return self.total - self.inputs

    def words(self, node: Node, decode_token: TokenText) -> str:
        """What a node is called in this prompt: "head 3.5 from ' pie' (position 2) to ' apple' (position 9)"."""
        at = f"{decode_token(self.ids[node.position])!r} (position {node.position})"
        match node.kind:
            case "token":
                return f"the token {at}"
            case "position":
                return f"the vector of position {node.position}"
            case "bias":
                assert node.name is not None
                return f"{component_name(Bias(node.name))} at {at}"
            case "read":
                assert node.source is not None
                assert node.head is not None
                source = f"{decode_token(self.ids[node.source])!r} (position {node.source})"
                return f"{component_name(Head(_layer(node), node.head))} from {source} to {at}"
            case "mlp":
                return f"{component_name(Layer(_layer(node), 'mlp'))} at {at}"
            case "neuron":
                assert node.neuron is not None
                return f"{component_name(Neuron(_layer(node), node.neuron))} at {at}"
        return "the logit"

    def to_json(self, decode_token: TokenText) -> Json:
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
    model: Transformer,
    ids: Sequence[int],
    quantity: Quantity,
    *,
    count: int = 40,
    granularity: GraphGranularity = "mlp",
) -> Graph:
    """The graph of a quantity after a prompt, with the nodes of largest influence.

    Args:
        model: The reference model; its weights are all of one dtype and require no gradients.
        ids: The prompt's token ids.
        quantity: What the graph explains.
        count: The number of nodes to keep, the logit not counted.
        granularity: "mlp": an MLP is one node at each position; "neuron": each of its neurons is.

    Raises:
        EmptyPrompt: There are no ids.
        ContextOverflow: There are more ids than the model's context holds.
        UnknownToken: An id is outside the vocabulary.
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
        kept = _largest(found, count, granularity)
        end = Node("logit", len(ids) - 1)
        edges, inflows = _edges(found, [*kept, end])
    unseen = {node: (total if node == end else kept[node]) - inflow for node, inflow in inflows.items()}
    return Graph(tuple(ids), quantity, total, inputs, {end: total, **kept}, edges, unseen)


def _largest(found: Flow, count: int, granularity: GraphGranularity) -> dict[Node, float]:
    """The `count` nodes of largest influence, none of which is 0."""
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
        groups.append((neurons, neuron) if granularity == "neuron" else (neurons.sum(1), mlp))
    best: list[tuple[float, Node]] = []
    for influence, make in groups:
        flat = influence.flatten()
        for at in flat.abs().topk(min(count, len(flat))).indices.tolist():
            if flat[at] != 0:
                best.append((float(flat[at]), make(*map(int, np.unravel_index(at, influence.shape)))))
    best.sort(key=lambda pair: -abs(pair[0]))
    return {node: influence for influence, node in best[:count]}


def _edges(found: Flow, nodes: Sequence[Node]) -> tuple[dict[tuple[Node, Node], float], dict[Node, float]]:
    """What flows directly between these nodes, and the sum of it into each that is no input."""
    edges: dict[tuple[Node, Node], float] = {}
    inflows = {node: 0.0 for node in nodes if node.kind in ("read", "mlp", "neuron", "logit")}
    writes = {node: vector for node in nodes if (vector := _write(found, node)) is not None}
    for reader in inflows:
        stage, position, covector = _reader(found, reader)
        for node in nodes:
            flows = 0.0
            if node.position == position and node in writes and _written(node) <= stage:
                flows = float(writes[node] @ covector)
            elif node.position == position and node.kind == "bias" and node not in writes:
                flows = _inner_bias(found, node, reader)
            if flows:
                edges[node, reader] = flows
                inflows[reader] += flows
    return edges, inflows


def _written(node: Node) -> int:
    """The number of parts (two a layer, attention first) after which a node's vector is in the residual."""
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
    """The layer of a node that has one."""
    assert node.layer is not None
    return node.layer


def _write(found: Flow, node: Node) -> Tensor | None:
    """The vector that a node adds to the residual at its position [width]; None for a bias inside a part."""
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
    """How a node reads the residual: after which part, at which position, and with which gradient [width].

    The gradient is that of what flows through the node, with respect to the residual that it reads.
    """
    model, a, layer = found.model, found.model.architecture, node.layer
    if layer is None:
        rows = found.weights @ model.unembed.weight
        return 2 * a.n_layers, node.position, _through(model.norm, rows, found.activations["norm.scale"][node.position])
    block, name = block_of(model, layer), f"blocks.{layer}"
    if node.kind == "read":
        assert node.source is not None
        rows = _value_gradient(found, node) @ block.attention.value.weight[_value_rows(found, node)]
        scale = found.activations[f"{name}.attention_norm.scale"][node.source]
        return 2 * layer, node.source, _through(block.attention_norm, rows, scale)
    rows = _up_gradient(found, node) @ block.mlp.up.weight
    scale = found.activations[f"{name}.mlp_norm.scale"][node.position]
    return 2 * layer + (a.residual == "serial"), node.position, _through(block.mlp_norm, rows, scale)


def _value_rows(found: Flow, node: Node) -> slice:
    """The rows of the value projection that a read's head uses."""
    a, head = found.model.architecture, node.head or 0
    first = a.head_size * (head * a.n_kv_heads // a.n_heads)
    return slice(first, first + a.head_size)


def _value_gradient(found: Flow, node: Node) -> Tensor:
    """Gradient of the quantity with respect to the value that a read attends to [head size].

    The attention weight times the gradient with respect to the head's output.
    """
    name = f"blocks.{node.layer}.attention"
    weight = found.activations[f"{name}.pattern"][node.head, node.position, node.source]
    gradient: Tensor = found.gradients[f"{name}.z"][node.head, node.position]
    return gradient * weight


def _up_gradient(found: Flow, node: Node) -> Tensor:
    """Gradient of the quantity with respect to an MLP's `up` [neurons]; for a neuron's node 0 but at its own."""
    gradient = found.gradients[f"blocks.{node.layer}.mlp.up"][node.position]
    if node.neuron is None:
        return gradient
    own = torch.zeros_like(gradient)
    own[node.neuron] = gradient[node.neuron]
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
        rows = _up_gradient(found, reader)
        return float(rows @ (vector if name.endswith(".up.bias") else block_of(model, layer).mlp.up.weight @ vector))
    rows = _value_gradient(found, reader)
    if name.endswith(".value.bias"):
        return float(rows @ vector[_value_rows(found, reader)])
    return float(rows @ block_of(model, layer).attention.value.weight[_value_rows(found, reader)] @ vector)


def _through(norm: Norm, rows: Tensor, scale: Tensor) -> Tensor:
    """A gradient at a normed residual as one at the residual before the norm [width], the norm's scale held."""
    rows = rows * norm.weight * scale
    return rows - rows.mean(-1, keepdim=True) if norm.centred else rows
