"""The frozen model: patterns, norm scales and neurons' ratios held, so that it is linear in its residual.

A pattern and a norm's scale are held at their values, a neuron at the ratio of its activation to its `up`: for a gated
neuron that is the silu of its gate. It is the reference model under a hook, never a second model; it gives the same
logits (up to rounding), and its gradients are exact influences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.trace.recording import Recorder


class LinearizingHook:
    """A hook that holds patterns, scales and neurons' ratios.

    Attributes:
        kept: Activations at the points that are kept, by name; after a backward pass each has its gradient.
    """

    def __init__(self, points: Mapping[str, Tensor], keep: Callable[[str], bool] = lambda name: False) -> None:
        """Hold what is in `points`, activations of the same ids, and keep the points for whose names `keep` is true."""
        self.kept: dict[str, Tensor] = {}
        self._points, self._keep = points, keep
        self._up: Tensor | None = None

    def wants(self, name: str) -> bool:
        """See nextword.model.hooks.Hook."""
        return name.endswith((".pattern", ".scale", ".up", ".activation")) or self._keep(name)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See nextword.model.hooks.Hook."""
        if name.endswith((".pattern", ".scale")):
            return self._points[name]
        if name.endswith(".activation"):
            assert self._up is not None, "a neuron's `up` is met before its activation"
            tensor = self._up * ratio(self._points, name)
        if self._keep(name):
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            tensor.retain_grad()
            self.kept[name] = tensor
        if name.endswith(".up"):
            self._up = tensor
        return tensor


def ratio(points: Mapping[str, Tensor], activation: str) -> Tensor:
    """Each neuron's activation divided by its `up`; 0 where `up` is 0."""
    up = points[activation.removesuffix("activation") + "up"]
    return torch.where(up == 0, 0, points[activation] / torch.where(up == 0, 1, up))


def freeze(model: Transformer, ids: Sequence[int]) -> dict[str, Tensor]:
    """The activations of a pass over `ids` at every hook point and position: what `LinearizingHook` holds."""
    points = Recorder()
    with torch.no_grad():
        model(torch.tensor([list(ids)], device=model.embed.weight.device), hook=points)
    return points.activations


@dataclass(frozen=True)
class Flow:
    """Activations and gradients of the frozen model.

    Args:
        model: The reference model.
        ids: The T token ids that were read.
        weights: Of the last position's logits in the quantity whose gradients these are [vocab].
        activations: At every hook point, without the batch dimension.
        gradients: Of the quantity, at the points of `_WITH_GRADIENTS`, in the same shapes.
    """

    model: Transformer
    ids: tuple[int, ...]
    weights: Tensor
    activations: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    def biases(self) -> Iterator[tuple[str, Tensor]]:
        """The name of every bias, and its influence at each position [T]."""
        model, gradients = self.model, self.gradients
        stored = dict(model.named_parameters())
        for layer in range(model.architecture.n_layers):
            for place in ("attention_norm", "attention.value", "attention.output", "mlp_norm", "mlp.up", "mlp.down"):
                name = f"blocks.{layer}.{place}.bias"
                if name in stored:
                    written = name.removesuffix(".bias").removesuffix(".output").removesuffix(".down")
                    gradient = gradients[written]
                    if gradient.dim() == 3:  # [kv heads, T, head]
                        gradient = gradient.transpose(0, 1).flatten(1)
                    yield name, gradient @ stored[name]
        if model.norm.bias is not None:
            yield "norm.bias", gradients["norm"] @ model.norm.bias

    def reads(self, layer: int) -> Tensor:
        """Influence of what each head writes by attending to each position, its value bias included [heads, T, T]."""
        a, name = self.model.architecture, f"blocks.{layer}.attention"
        value = self.activations[f"{name}.value"].repeat_interleave(a.n_heads // a.n_kv_heads, 0)
        return (self.gradients[f"{name}.z"] @ value.transpose(1, 2)) * self.activations[f"{name}.pattern"]

    def neurons(self, layer: int) -> Tensor:
        """Influence of each neuron at each position, its bias included [T, neurons]."""
        name = f"blocks.{layer}.mlp.activation"
        return self.activations[name] * self.gradients[name]


_WITH_GRADIENTS = (
    "embed",
    ".attention_norm",
    ".value",
    ".z",
    ".attention",
    ".mlp_norm",
    ".up",
    ".activation",
    ".mlp",
    "norm",
)


@torch.enable_grad()
def flow(model: Transformer, ids: Sequence[int], weights: Tensor) -> Flow:
    """Gradients of a weighted sum of the last logits in the frozen model.

    Args:
        model: The reference model.
        ids: The token ids to read.
        weights: Of the logits [vocab].
    """
    points = freeze(model, ids)
    hook = LinearizingHook(points, lambda name: name.endswith(_WITH_GRADIENTS))
    logits = model(torch.tensor([list(ids)], device=model.embed.weight.device), hook=hook)
    (logits[0, -1] @ weights.to(logits)).backward()
    gradients = {
        name: torch.zeros_like(kept)[0] if kept.grad is None else kept.grad[0] for name, kept in hook.kept.items()
    }
    return Flow(model, tuple(ids), weights, {name: each[0] for name, each in points.items()}, gradients)
