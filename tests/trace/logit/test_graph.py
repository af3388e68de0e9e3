"""The attribution graph: complete, conserved at every node, and what an intervention in the frozen model does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nextword import cli
from nextword.errors import EmptyPrompt, UnknownToken
from nextword.model.hooks import Hook
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.parameters.open import open_stored
from nextword.predict.torch_engine import TorchEngine
from nextword.trace.logit.attribution import Quantity
from nextword.trace.logit.graph import Graph, Node, attribution_graph
from nextword.trace.logit.linearized import LinearizingHook, freeze
from tests.tiny import VARIANTS
from tests.trace.models import KINDS, PROMPT, induction_model, random_model

every_kind = pytest.mark.parametrize("kind", KINDS)
ALL = 10**6
SHORT = PROMPT[:4]


def graph_of(kind: str, quantity: Quantity = Quantity(5), **options: object) -> Graph:  # noqa: B008 (frozen)
    return attribution_graph(random_model(KINDS[kind]), SHORT, quantity, **options)  # type: ignore[arg-type]


def doubled(model: Transformer) -> Transformer:
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    return Transformer.of(model.architecture, weights).requires_grad_(False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_are_the_logit_in_every_family(tiny_folder: Callable[[str], Path], variant: str) -> None:
    stored = open_stored(tiny_folder(variant))
    model = doubled(TorchEngine(stored.architecture, stored.tensors).transformer)
    for quantity in (Quantity(5), Quantity(5, 17)):
        graph = attribution_graph(model, PROMPT, quantity)
        logits = model(torch.tensor([PROMPT]))[0, -1]
        total = logits[5] - (logits[17] if quantity.contrast else 0)
        assert graph.total == pytest.approx(float(total), abs=1e-10)
        assert abs(graph.remainder) <= 1e-10 * max(abs(graph.total), 0.1)


@every_kind
@pytest.mark.parametrize(("granularity", "quantity"), [("neuron", Quantity(5)), ("mlp", Quantity(5, "expected"))])
def test_what_flows_into_a_node_flows_out_of_it(kind: str, granularity: str, quantity: Quantity) -> None:
    """With nothing pruned; every node's edges come from its own read and write vectors, influences from gradients."""
    short = PROMPT[:2] if granularity == "neuron" else SHORT
    graph = attribution_graph(random_model(KINDS[kind]), short, quantity, count=ALL, granularity=granularity)  # type: ignore[arg-type]
    scale = max(map(abs, graph.influences.values()))
    into, out = Counter[Node](), Counter[Node]()
    for (writer, reader), flow in graph.edges.items():
        out[writer] += flow  # type: ignore[assignment]
        into[reader] += flow  # type: ignore[assignment]
    for node, influence in graph.influences.items():
        if node.kind != "logit":
            assert out[node] == pytest.approx(influence, abs=1e-10 * scale), node
        if node in graph.unseen:
            assert into[node] == pytest.approx(influence, abs=1e-10 * scale), node
            assert graph.unseen[node] == pytest.approx(0, abs=1e-10 * scale)


class Removing:
    """The frozen model, with one more change at a point."""

    def __init__(self, frozen: Hook, point: str, change: Callable[[Tensor], None]) -> None:
        self._frozen, self._point, self._change = frozen, point, change

    def wants(self, name: str) -> bool:
        return name == self._point or self._frozen.wants(name)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        tensor = (self._frozen(name, tensor) if self._frozen.wants(name) else tensor).clone()
        if name == self._point:
            self._change(tensor)
        return tensor


@every_kind
def test_influences_are_what_ablation_takes_from_the_frozen_model(kind: str) -> None:
    model = random_model(KINDS[kind])
    points, row = freeze(model, SHORT), torch.tensor([SHORT])
    graph = attribution_graph(model, SHORT, Quantity(5), count=ALL, granularity="neuron")
    whole = float(model(row, hook=LinearizingHook(points))[0, -1, 5])
    assert whole == pytest.approx(graph.total, abs=1e-11)

    def without(point: str, change: Callable[[Tensor], None]) -> float:
        return whole - float(model(row, hook=Removing(LinearizingHook(points), point, change))[0, -1, 5])

    a = model.architecture
    for node, influence in graph.influences.items():
        if node.kind == "token":
            vector = model.embed.weight[SHORT[node.position]]
            lost = without("embed", lambda x, t=node.position, v=vector: x[0, t].sub_(v))  # type: ignore[misc]
        elif node.kind == "neuron" and node.neuron == 3:
            point = f"blocks.{node.layer}.mlp.activation"
            lost = without(point, lambda x, t=node.position, n=node.neuron: x[0, t, n].zero_())  # type: ignore[misc]
        elif node.kind == "read" and node.head == 2:
            name = f"blocks.{node.layer}.attention"
            taken = points[f"{name}.value"][0, node.head * a.n_kv_heads // a.n_heads, node.source]
            taken = taken * points[f"{name}.pattern"][0, node.head, node.position, node.source]
            lost = without(f"{name}.z", lambda x, t=node.position, v=taken: x[0, 2, t].sub_(v))  # type: ignore[misc]
        elif node.kind == "bias" and (node.name or "").endswith(".attention.output.bias"):
            vector = model.get_parameter(node.name or "")
            point = (node.name or "").removesuffix(".output.bias")
            lost = without(point, lambda x, t=node.position, v=vector: x[0, t].sub_(v))  # type: ignore[misc]
        else:
            continue
        assert influence == pytest.approx(lost, abs=1e-10), node


def test_a_pruned_graph_says_what_it_does_not_show() -> None:
    kind = "layernorm, learned, biases, tied"
    whole, pruned = graph_of(kind, count=ALL), graph_of(kind, count=12)
    assert len(pruned.influences) == 13
    order = sorted(map(abs, list(whole.influences.values())[1:]), reverse=True)
    assert list(map(abs, list(pruned.influences.values())[1:])) == pytest.approx(order[:12])
    assert pruned.inputs == whole.inputs
    for node, unseen in pruned.unseen.items():
        into = sum(flow for (_, reader), flow in pruned.edges.items() if reader == node)
        assert into + unseen == pytest.approx(pruned.influences[node])
    assert all(flow == pytest.approx(whole.edges[edge]) for edge, flow in pruned.edges.items())


def test_nothing_outside_a_hand_made_circuit_has_influence() -> None:
    """... 4 7 ... 4: the induction head copies 7 from its place. Where it looks is frozen, and is no edge."""
    graph = attribution_graph(induction_model(), [1, 4, 7, 2, 5, 9, 4], Quantity(7), count=ALL, granularity="neuron")
    word, read, end = Node("token", 2), Node("read", 6, 1, 0, 2), Node("logit", 6)
    assert set(graph.influences) == {word, read, end}
    assert set(graph.edges) == {(word, read), (read, end)}
    assert len(set(graph.influences.values()) | set(graph.edges.values())) == 1
    assert graph.remainder == 0
    assert set(graph.unseen.values()) == {0.0}


def test_as_json_edges_go_between_nodes() -> None:
    payload = json.loads(json.dumps(graph_of("qk-norm", Quantity(5, 17), count=10).to_json(str)))
    assert payload["contrast"]["id"] == 17
    ids = [node["id"] for node in payload["nodes"]]
    assert ids == list(range(11))
    assert payload["nodes"][0]["kind"] == "logit"
    assert payload["nodes"][0]["influence"] == payload["total"]
    assert all(edge["from"] in ids and edge["to"] in ids for edge in payload["edges"])
    assert payload["remainder"] == payload["total"] - payload["inputs"]


def test_float32_is_complete_up_to_rounding() -> None:
    model = random_model(KINDS["rmsnorm, grouped"], 0, torch.float32)
    graph = attribution_graph(model, PROMPT, Quantity(5))
    assert abs(graph.remainder) <= 1e-5 * max(map(abs, graph.influences.values()))


def test_the_verb_prints_nodes_and_edges() -> None:
    result = CliRunner().invoke(cli.app, ["graph", "She ate an apple", "--token", " pie", "--nodes", "8", "--json"])
    payload = json.loads(result.stdout)
    assert (len(payload["nodes"]), payload["token"]["token"]) == (9, " pie")
    assert abs(payload["remainder"]) <= 1e-4 * max(abs(node["influence"]) for node in payload["nodes"])
    contrast = ["graph", "She ate an apple", "--token", " pie", "--contrast", " tree", "--granularity", "neuron"]
    shown = CliRunner().invoke(cli.app, contrast)
    assert shown.exit_code == 0
    assert "' pie' above ' tree'" in shown.stdout
    wrong = CliRunner().invoke(cli.app, ["graph", "She ate", "--token", "unheard-of"])
    assert wrong.exit_code == 1
    assert "not one token" in wrong.stderr


def test_what_cannot_be_traced_is_refused() -> None:
    model = random_model(KINDS["qk-norm"])
    with pytest.raises(EmptyPrompt):
        attribution_graph(model, [], Quantity(5))
    with pytest.raises(UnknownToken):
        attribution_graph(model, [1], Quantity(60))
    with pytest.raises(UnknownToken):
        attribution_graph(model, [1], Quantity(5, 60))
