"""Ablation: what a component wrote into the residual is replaced.

    zero      by nothing
    mean      by what the same component wrote on average over the positions of a reference text
    resample  by what it wrote at one position of that text, drawn at random (Chan et al., 2022)

Heads, neurons and embeddings are linear in what they are written from (a z value, an activation, a row of the
embedding), so an ablation is one vector added to the residual at the last position, at the point where the component
writes. A component that writes in several layers (`Source`) is ablated as what it wrote in the recording. Biases are
the same everywhere, so they have no mean but themselves: they are always ablated by zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from nextword.errors import InputError, SettingError
from nextword.model.architecture import Learned
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.logit.attribution import value_bias, written_by_edit
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
from nextword.trace.recording import Recorder, Recording, block_of, check_prompt
from nextword.trace.settings import Ablation

Writes = Mapping[str, Tensor]
"""Vectors [width] that are written at the last position, by hook point."""
REFERENCE_TOKENS = 512  # tokens: of a reference text that are used, from its first on


@dataclass(frozen=True)
class PositionState:
    """What the components of a model write from, at one position.

    Args:
        token: The token's embedding [width].
        place: The position's learned vector [width]; zeros where there is none.
        z: Values averaged by each head, of each layer [heads, head size].
        values: Of each layer [kv heads, T, head size], or [kv heads, 1, head size] where all T are alike.
        activation: Neurons of each layer [N].
    """

    token: Tensor
    place: Tensor
    z: Sequence[Tensor]
    values: Sequence[Tensor]
    activation: Sequence[Tensor]

    @staticmethod
    def of(recording: Recording) -> PositionState:
        """The state at the recording's last position."""
        model, layers = recording.model, range(recording.model.architecture.n_layers)
        return PositionState(
            model.embed.weight[recording.ids[-1]],
            _places(model, len(recording.ids))[-1],
            [recording.unedited(f"blocks.{layer}.attention.z")[:, 0] for layer in layers],
            [recording.values(layer) for layer in layers],
            [recording.activations[f"blocks.{layer}.mlp.activation"][0] for layer in layers],
        )


class ReferenceText:
    """All states of a text but that of its first position, where many models park attention (Xiao et al., 2023).

    Raises InputError for a text of fewer than two tokens, and as `record`.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, ids: Sequence[int]) -> None:
        ids = list(ids[: min(REFERENCE_TOKENS, model.architecture.context)])
        if len(ids) < 2:
            raise InputError(
                "A mean or a resample is taken from at least two tokens: give a reference text, or ablate by zero."
            )
        check_prompt(ids, model.architecture)
        points = Recorder(lambda name: name.endswith((".z", ".value", ".activation")))
        row = torch.tensor([ids], device=model.embed.weight.device)
        model.states(row, hook=points)
        self._tokens = model.embed(row)[0, 1:]
        self._places = _places(model, len(ids))[1:]
        self._z, self._values, self._activation = (
            [tensor[0] for name, tensor in points.activations.items() if name.endswith(kind)]
            for kind in (".z", ".value", ".activation")
        )

    def __len__(self) -> int:
        return len(self._tokens)

    def mean(self) -> PositionState:
        """The average of the states."""
        return PositionState(
            self._tokens.mean(0),
            self._places.mean(0),
            [each[:, 1:].mean(1) for each in self._z],
            [each[:, 1:].mean(1, keepdim=True) for each in self._values],
            [each[1:].mean(0) for each in self._activation],
        )

    def at(self, position: int) -> PositionState:
        """The state at one position, 0 being the text's second token."""
        return PositionState(
            self._tokens[position],
            self._places[position],
            [each[:, 1 + position] for each in self._z],
            [each[:, 1 + position, None] for each in self._values],
            [each[1 + position] for each in self._activation],
        )


def _places(model: Transformer, count: int) -> Tensor:
    """The learned vectors of the first positions [count, width]; zeros where there are none."""
    if isinstance(model.architecture.position, Learned):
        places: Tensor = model.position.weight[:count]
        return places
    return torch.zeros_like(model.embed.weight[:1]).expand(count, -1)


def written(recording: Recording, component: Component, state: PositionState) -> Writes:
    """What a component writes at the recording's last position from a given state.

    Args:
        recording: Of the prompt; its attention patterns are kept.
        component: The component.
        state: What it writes from.
    """
    model = recording.model
    match component:
        case Token():
            return {"embed": state.token}
        case Position():
            return {"embed": state.place}
        case Read(layer, head, source):
            weights = torch.zeros_like(recording.pattern(layer))
            weights[head, source] = recording.pattern(layer)[head, source]
            return {_attention(layer): _attended(model, layer, weights, state)}
        case Source(source):
            writes = {}
            for layer in range(model.architecture.n_layers):
                weights = torch.zeros_like(recording.pattern(layer))
                weights[:, source] = recording.pattern(layer)[:, source]
                writes[_attention(layer)] = _attended(model, layer, weights, state)
            return writes
        case Head(layer, head):
            z = torch.zeros_like(state.z[layer])
            z[head] = state.z[layer][head]
            return {_attention(layer): _through_output(model, layer, z)}
        case ValueBias(layer, head):
            group = model.architecture.n_heads // model.architecture.n_kv_heads
            z = torch.zeros_like(state.z[layer])
            z[head] = value_bias(model, layer)[head // group]
            return {_attention(layer): _through_output(model, layer, z)}
        case Neuron(layer, neuron):
            return {f"blocks.{layer}.mlp": state.activation[layer][neuron] * _down(model, layer)[:, neuron]}
        case Layer(layer, "attention"):
            return {_attention(layer): block_of(model, layer).attention.output(state.z[layer].flatten())}
        case Layer(layer, _):
            return {f"blocks.{layer}.mlp": block_of(model, layer).mlp.down(state.activation[layer])}
        case Bias(name):
            stored = dict(model.named_parameters()).get(name)
            point = name.removesuffix(".bias").removesuffix(".output").removesuffix(".down")
            return {point: torch.zeros_like(state.token) if stored is None else stored}
        case Edited(point):
            return {point.removesuffix(".z"): written_by_edit(recording, point)}


def _attention(layer: int) -> str:
    return f"blocks.{layer}.attention"


def _down(model: Transformer, layer: int) -> Tensor:
    weight: Tensor = block_of(model, layer).mlp.down.weight
    return weight


def _attended(model: Transformer, layer: int, weights: Tensor, state: PositionState) -> Tensor:
    """What heads of these attention weights [heads, T] write [width], value biases left out."""
    a = model.architecture
    values = (state.values[layer] - value_bias(model, layer)[:, None]).expand(-1, weights.shape[1], -1)
    grouped = weights.view(a.n_kv_heads, -1, weights.shape[1])
    return _through_output(model, layer, (grouped @ values).view(a.n_heads, a.head_size))


def _through_output(model: Transformer, layer: int, z: Tensor) -> Tensor:
    weight: Tensor = block_of(model, layer).attention.output.weight
    return weight @ z.flatten()


@torch.no_grad()
def ablation_writes(
    recording: Recording,
    components: Sequence[Component],
    ablation: Ablation,
    reference: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Writes]:
    """For each component the vectors whose addition ablates it.

    Args:
        recording: Of the prompt.
        components: What is ablated, each on its own.
        ablation: "zero", "mean" or "resample".
        reference: Token ids that means and resamples are taken from; None: the prompt without its last token.
        seed: Of the positions that are drawn.

    Raises:
        InputError: The reference is too short.
        SettingError: The name of the ablation is unknown.
    """
    if ablation not in get_args(Ablation) or ablation == "none":
        raise SettingError(f"A component can be ablated by zero, mean or resample, not {ablation!r:.40}.")
    own = PositionState.of(recording)
    if ablation != "zero":
        others = ReferenceText(recording.model, recording.ids[:-1] if reference is None else reference)
        draws = np.random.default_rng(seed).integers(len(others), size=len(components))
        mean = others.mean()
    found: list[Writes] = []
    for number, component in enumerate(components):
        writes = written(recording, component, own)
        if ablation == "zero" or isinstance(component, ValueBias | Bias | Edited):
            found.append({point: -vector for point, vector in writes.items()})
            continue
        instead = written(recording, component, mean if ablation == "mean" else others.at(int(draws[number])))
        found.append({point: instead[point] - vector for point, vector in writes.items()})
    return found


def stacked(recording: Recording, changes: Sequence[Writes]) -> Writes:
    """What every change adds at each point, zeros where it adds nothing [len(changes), width]."""
    nothing = torch.zeros_like(recording.model.norm.weight)
    points = {point for change in changes for point in change}
    return {point: torch.stack([change.get(point, nothing) for change in changes]) for point in points}


class AddingHook:
    """A hook that adds to each row of a batch a vector of its own, at every position of the pass.

    `interventions.Steer` adds the same to all rows; this one is for many ablations read side by side.
    """

    def __init__(self, vectors: Writes) -> None:
        """Add `vectors` [rows, width], by point; a gradient flows into them."""
        self._vectors = vectors

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return name in self._vectors

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        return tensor + self._vectors[name][:, None]
