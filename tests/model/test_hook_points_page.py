"""The page of hook points lists the points of both kinds of MLP, and the shapes that a forward pass has there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nextword.model.architecture import Architecture, SwiGLU
from nextword.model.hooks import point_names
from nextword.model.types import Tensor
from tests.trace.models import KINDS, PROMPT, random_model

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "hook-points.md"
BOTH = {"gelu": KINDS["layernorm, learned, biases, tied"], "swiglu": KINDS["rmsnorm, grouped"]}


def rows() -> dict[str, tuple[list[str], str]]:
    """The page's table: shape and meaning of each point, by its name."""
    found = re.findall(r"^\| `([\w.]+)` \| \[(.+?)\] \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    return {name: (shape.split(", "), meaning) for name, shape, meaning in found}


def listed(architecture: Architecture) -> list[str]:
    """The points that the page says such a model has, with L for the layer, in the page's order."""
    gated = isinstance(architecture.mlp, SwiGLU)
    return [name for name, (_, meaning) in rows().items() if gated or not meaning.startswith("SwiGLU only")]


@pytest.mark.parametrize("mlp", BOTH)
def test_the_page_lists_exactly_the_points(mlp: str) -> None:
    names = [re.sub(r"blocks\.\d+", "blocks.L", name) for name in point_names(BOTH[mlp])]
    assert listed(BOTH[mlp]) == list(dict.fromkeys(names))


class Shapes:
    """A hook that notes the shape of every point, in the order of the pass."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[int]] = {}

    def wants(self, name: str) -> bool:
        return True

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        self.shapes[name] = list(tensor.shape)
        return tensor


@pytest.mark.parametrize("mlp", BOTH)
def test_a_forward_pass_has_the_points_and_the_pages_shapes(mlp: str) -> None:
    a, seen, table = BOTH[mlp], Shapes(), rows()
    random_model(a)(torch.tensor([PROMPT, PROMPT]), hook=seen)
    assert list(seen.shapes) == list(point_names(a))
    sizes = {"batch": 2, "time": len(PROMPT), "positions": len(PROMPT), "width": a.width, "vocab": a.vocab, "1": 1}
    sizes |= {"heads": a.n_heads, "kv heads": a.n_kv_heads, "head size": a.head_size, "mlp width": a.mlp.width}
    for name, shape in seen.shapes.items():
        assert shape == [sizes[each] for each in table[re.sub(r"blocks\.\d+", "blocks.L", name)][0]], name
