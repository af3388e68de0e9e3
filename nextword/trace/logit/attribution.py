"""Direct logit attribution, the ledger: one logit, or a difference of two, as an exact sum over components.

With T the last position, a the attention pattern, U the unembedding:

    residual = E[token] + P[T] + sum over layers, heads, sources j of a[T,j] (v_j - b_V) W_O
             + sum over layers, neurons n of act_n W_out[n] + biases    (b_V once per head: a sums to 1)
    logit_c  = residual . w_c + beta . U_c,   w_c = gamma * U_c * (1 / sigma of the final norm),  LayerNorm: centred

It is linear algebra over a recording: nothing is fitted, and what rounding leaves over is reported as `remainder`,
the model's own logit minus the sum. The scale of the final norm is held as it was: the attribution says what made up
this logit, not what would happen otherwise; nextword.trace.logit.audit measures that. log p is not additive, so two
contrasts that are stand for it: with a named token, and with a mean over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.architecture import Learned
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.logit.components import (
    Bias,
    Component,
    Edited,
    Head,
    Layer,
    Neuron,
    Position,
    Read,
    Source,
    Token,
    ValueBias,
)
from nextword.trace.recording import Recording, block_of, check_token
from nextword.trace.settings import Granularity

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """The quantity that is attributed: the logit of a token, or that logit less a contrast.

    Attributes:
        token: Id of the token.
        contrast: What is subtracted: an id: that token's logit; "mean": the mean logit over all ids; "expected": the
            mean by the model's own probabilities, so that small changes of the quantity are small changes of log p;
            None: nothing.
    """

    token: int
    contrast: int | Literal["mean", "expected"] | None = None

    def weights(self, recording: Recording) -> Tensor:
        """The quantity as a weighted sum of all logits: the weight of each [vocab]."""
        logits = recording.logits
        weights = torch.zeros_like(logits)
        weights[self.token] = 1
        match self.contrast:
            case None:
                return weights
            case "mean":
                return weights - 1 / len(logits)
            case "expected":
                return weights - logits.softmax(-1)
            case contrast:
                weights[contrast] -= 1
                return weights


def through_norm(model: Transformer, unembedding: Tensor) -> Tensor:
    """Unembedding rows [..., width] as directions of the residual, up to the scale of the final norm.

    The norm's weight is folded in; where it centres its input, so is the direction.
    """
    directions: Tensor = unembedding * model.norm.weight
    return directions - directions.mean(-1, keepdim=True) if model.norm.centred else directions


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """The contributions of all components to one quantity, in logits, float64.

    L layers, H heads, T tokens, N neurons a layer.

    Args:
        quantity: What is attributed.
        row: The direction that reads the quantity out of the normed residual [width].
        token: Contribution of the last token's embedding.
        position: Contribution of the last position's learned vector.
        reads: Of what each head wrote by attending to each position [L, H, T].
        value_biases: Of each head's value bias [L, H].
        attention_biases: Of the bias of each attention's output [L].
        neurons: Of each neuron [L, N].
        mlp_biases: Of the bias of each MLP's output [L].
        norm_bias: Of the final norm's bias.
        total: The quantity as the model computed it.
        edits: Of what edits of the model changed, by the hook point; empty for a model as it is.
    """

    quantity: Quantity
    row: Tensor
    token: float
    position: float
    reads: Array
    value_biases: Array
    attention_biases: Array
    neurons: Array
    mlp_biases: Array
    norm_bias: float
    total: float
    edits: Mapping[str, float] = field(default_factory=dict)

    @property
    def remainder(self) -> float:
        """The total less all contributions: rounding, in logits."""
        arrays = (self.reads, self.value_biases, self.attention_biases, self.neurons, self.mlp_biases)
        named = self.token + self.position + self.norm_bias + sum(self.edits.values())
        return self.total - named - sum(float(each.sum()) for each in arrays)

    @property
    def relative_remainder(self) -> float:
        """|remainder| / |total| or, where contributions cancel, / the largest contribution of a layer's part."""
        layers = [abs(contribution) for contribution in self.contributions("layer").values()]
        return abs(self.remainder) / max(abs(self.total), *layers)

    def parts(self) -> dict[str, float]:
        """The contributions summed: token, position, attention, MLPs and biases; and edits, if there are any."""
        biases = self.value_biases.sum() + self.attention_biases.sum() + self.mlp_biases.sum() + self.norm_bias
        return {
            "token": self.token,
            "position": self.position,
            "attention": float(self.reads.sum()),
            "mlp": float(self.neurons.sum()),
            "biases": float(biases),
            **({"edits": sum(self.edits.values())} if self.edits else {}),
        }

    def contribution(self, component: Component) -> float:
        """The contribution of one component, in logits."""
        match component:
            case Token():
                return self.token
            case Position():
                return self.position
            case Read(layer, head, source):
                return float(self.reads[layer, head, source])
            case Head(layer, head):
                return float(self.reads[layer, head].sum() + self.value_biases[layer, head])
            case Source(source):
                return float(self.reads[:, :, source].sum())
            case Neuron(layer, neuron):
                return float(self.neurons[layer, neuron])
            case Layer(layer, "attention"):
                own = self.reads[layer].sum() + self.value_biases[layer].sum()
                return float(own + self.attention_biases[layer])
            case Layer(layer, _):
                return float(self.neurons[layer].sum() + self.mlp_biases[layer])
            case ValueBias(layer, head):
                return float(self.value_biases[layer, head])
            case Edited(point):
                return self.edits[point]
            case Bias("norm.bias"):
                return self.norm_bias
            case Bias(name):
                _, layer_number, part, *_ = name.split(".")
                return float((self.attention_biases if part == "attention" else self.mlp_biases)[int(layer_number)])

    def contributions(self, granularity: Granularity) -> dict[Component, float]:
        """The contributions of components that together are everything: their sum and the remainder are `total`.

        "finest": every read, neuron and bias on its own; "read", "head", "source" and "neuron": each of these on its
        own, the rest by layer; "layer": attention and MLP of each layer.
        """
        return {
            component: float(value)
            for array, make in self._blocks(granularity)
            for component, value in zip(starmap(make, np.ndindex(array.shape)), array.ravel(), strict=True)
        }

    def top(self, count: int, granularity: Granularity = "finest") -> list[Component]:
        """The `count` components with the largest contributions of either sign, largest first."""
        found: list[tuple[float, Component]] = []
        for array, make in self._blocks(granularity):
            size = np.abs(array).ravel()
            best = np.argsort(-size, kind="stable")[:count]
            places = zip(*np.unravel_index(best, array.shape), strict=True) if array.ndim else [()] * len(best)
            found += [(-size[at], make(*map(int, place))) for at, place in zip(best, places, strict=True)]
        return [component for size, component in sorted(found, key=lambda pair: pair[0])[:count] if size]

    def _blocks(self, granularity: Granularity) -> list[tuple[Array, Callable[..., Component]]]:
        """Arrays of contributions and, for each, what makes an index into a component."""
        blocks: list[tuple[Array, Callable[..., Component]]] = [
            (np.array(self.token), Token),
            (np.array(self.position), Position),
            (np.array(self.norm_bias), lambda: Bias("norm.bias")),
        ]
        edited = list(self.edits)
        if edited:
            blocks += [(np.array([self.edits[point] for point in edited]), lambda at: Edited(edited[at]))]
        heads = self.reads.sum(2) + self.value_biases
        if granularity in ("finest", "read"):
            blocks += [(self.reads, Read), (self.value_biases, ValueBias)]
        elif granularity == "head":
            blocks += [(heads, Head)]
        elif granularity == "source":
            blocks += [(self.reads.sum((0, 1)), Source), (self.value_biases, ValueBias)]
        else:
            blocks += [(heads.sum(1) + self.attention_biases, lambda layer: Layer(layer, "attention"))]
        if granularity in ("finest", "read", "head", "source"):
            blocks += [(self.attention_biases, lambda layer: Bias(f"blocks.{layer}.attention.output.bias"))]
        if granularity in ("finest", "neuron"):
            blocks += [
                (self.neurons, Neuron),
                (self.mlp_biases, lambda layer: Bias(f"blocks.{layer}.mlp.down.bias")),
            ]
        else:
            blocks += [(self.neurons.sum(1) + self.mlp_biases, lambda layer: Layer(layer, "mlp"))]
        return blocks


@torch.no_grad()
def attribute(recording: Recording, quantities: Sequence[Quantity]) -> list[LogitAttribution]:
    """Direct logit attribution of several quantities over one recording (Elhage et al., 2021).

    Raises UnknownToken.
    """
    model, a = recording.model, recording.model.architecture
    for quantity in quantities:
        for id in (quantity.token, quantity.contrast):
            if isinstance(id, int):
                check_token(id, a)
    weights = torch.stack([quantity.weights(recording) for quantity in quantities])  # [Q, vocab]
    totals, rows = weights.double() @ recording.logits.double(), _combined(weights, model.unembed.weight)
    directions = through_norm(model, rows) * recording.activations["norm.scale"][0]
    layers = [_layer(recording, layer, directions) for layer in range(a.n_layers)]
    parts = {name: torch.stack([layer[name] for layer in layers], 1).double().cpu().numpy() for name in layers[0]}
    token = directions @ model.embed.weight[recording.ids[-1]]
    position = torch.zeros_like(token)
    if isinstance(a.position, Learned):
        position = directions @ model.position.weight[len(recording.ids) - 1]
    norm_bias = torch.zeros_like(token) if model.norm.bias is None else rows @ model.norm.bias
    edits = {
        point: (rows if point == "norm" else directions) @ written_by_edit(recording, point)
        for point in recording.changes
    }
    return [
        LogitAttribution(
            quantity,
            token=float(token[q]),
            position=float(position[q]),
            norm_bias=float(norm_bias[q]),
            row=rows[q],
            total=float(totals[q]),
            edits={point: float(each[q]) for point, each in edits.items()},
            **{name: each[q] for name, each in parts.items()},
        )
        for q, quantity in enumerate(quantities)
    ]


def _combined(weights: Tensor, rows: Tensor) -> Tensor:
    """weights @ rows, summed in float64: over a whole vocabulary float32 would lose the fifth digit."""
    chunks = zip(torch.split(weights, 4096, 1), torch.split(rows, 4096), strict=True)
    total = torch.stack([part.double() @ chunk.double() for part, chunk in chunks]).sum(0)
    return total.to(rows.dtype)


def _layer(recording: Recording, layer: int, directions: Tensor) -> dict[str, Tensor]:
    """Contributions of one layer's components along each of `directions` [Q, width]: tensors [Q, ...]."""
    a, block = recording.model.architecture, block_of(recording.model, layer)
    pattern, group = recording.pattern(layer), a.n_heads // a.n_kv_heads
    bias = value_bias(recording.model, layer)  # [kv heads, head]
    per_head = (directions @ block.attention.output.weight).view(-1, a.n_kv_heads, group, a.head_size)
    values = recording.values(layer) - bias[:, None]
    reads = torch.einsum("qkgd,ksd->qkgs", per_head, values).flatten(1, 2) * pattern
    value_biases = torch.einsum("qkgd,kd->qkg", per_head, bias).flatten(1, 2)
    if recording.make_hook is not None:  # an edited pattern need not sum to 1
        value_biases = value_biases * pattern.sum(-1)
    return {
        "reads": reads,
        "value_biases": value_biases,
        "attention_biases": _bias_contribution(block.attention.output, directions),
        "neurons": (directions @ block.mlp.down.weight) * recording.activations[f"blocks.{layer}.mlp.activation"][0],
        "mlp_biases": _bias_contribution(block.mlp.down, directions),
    }


def _bias_contribution(linear: Any, directions: Tensor) -> Tensor:
    """Contribution of a projection's bias along each of `directions` [Q]."""
    return directions.new_zeros(len(directions)) if linear.bias is None else directions @ linear.bias


def written_by_edit(recording: Recording, point: str) -> Tensor:
    """What an edit at a point added to the residual, or at "norm" to its norm, at the last position [width]."""
    change = recording.changes[point]
    if point.endswith(".z"):
        output: Tensor = block_of(recording.model, int(point.split(".")[1])).attention.output.weight
        return output @ change[:, 0].flatten()
    return change[0]


def value_bias(model: Transformer, layer: int) -> Tensor:
    """The value biases of a layer [kv heads, head size]; zeros where none is stored."""
    a, linear = model.architecture, block_of(model, layer).attention.value
    flat = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
    return flat.view(a.n_kv_heads, a.head_size)
