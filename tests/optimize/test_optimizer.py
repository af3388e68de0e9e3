"""Muon makes orthogonal steps, Adam is torch's, and their state is tensors that load back exactly."""

from __future__ import annotations

import pytest
import torch

from nextword.errors import CorruptFile
from nextword.model.types import Tensor
from nextword.optimize.muon import Muon, orthogonal
from nextword.optimize.optimizer import Adam, Optimizer
from nextword.optimize.recipe import Rates


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 48)])
def test_orthogonal_brings_all_singular_values_to_one_and_keeps_the_directions(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    left, _, right = torch.linalg.svd(random(*shape), full_matrices=False)
    spectrum = torch.logspace(0, -2, shape[1])
    result = orthogonal((left * spectrum @ right * 7e3).to(dtype)).float()
    values = torch.linalg.svdvals(result)
    assert 0.85 < values.min() < values.max() < 1.15
    assert (result - left @ right).norm() < 0.12 * (left @ right).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_follows_its_rule(dtype: torch.dtype) -> None:
    """Nesterov momentum, orthogonalised, scaled by the shape, for either orientation of a matrix."""
    before = {"tall": random(48, 16), "wide": random(16, 48)}
    matrices = {name: matrix.clone() for name, matrix in before.items()}
    muon = Muon(matrices, dtype)
    gradients = [{name: random(*m.shape, seed=step) for name, m in before.items()} for step in (1, 2)]
    for each in gradients:
        muon.step(each, rate=0.1, momentum=0.9, decay=0.0)
    for name, scale in (("tall", 3**0.5), ("wide", 1.0)):
        first, second = (each[name] for each in gradients)
        average = 0.1 * first
        expected = before[name] - 0.1 * scale * polar(0.1 * first + 0.9 * average)
        average = 0.9 * average + 0.1 * second
        expected -= 0.1 * scale * polar(0.1 * second + 0.9 * average)
        assert (matrices[name] - expected).norm() < 0.03 * (expected - before[name]).norm() + 1e-6
        torch.testing.assert_close(muon.momentum[name], average)


def polar(matrix: Tensor) -> Tensor:
    """What Muon takes for the nearest orthogonal matrix, in the matrix's own orientation."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    result = orthogonal(wide[None])[0]
    return result if wide is matrix else result.T


def test_decay_touches_only_weights_that_the_update_moves_towards_zero() -> None:
    gradient = {"matrix": random(16, 24, seed=1)}
    plain, decayed = {"matrix": random(16, 24)}, {"matrix": random(16, 24)}
    Muon(plain).step(gradient, rate=0.1, momentum=0.9, decay=0.0)
    Muon(decayed).step(gradient, rate=0.1, momentum=0.9, decay=0.5)
    start = random(16, 24)
    shrinking = (start - plain["matrix"]) * start > 0
    torch.testing.assert_close(
        decayed["matrix"], torch.where(shrinking, plain["matrix"] - 0.05 * start, plain["matrix"])
    )
    assert 0 < shrinking.sum() < shrinking.numel()


def test_adam_is_that_of_torch() -> None:
    ours, theirs = random(5, 7), random(5, 7).requires_grad_()
    adam = Adam({"x": ours}, betas=(0.8, 0.9), eps=1e-8)
    torchs = torch.optim.Adam([theirs], lr=0.03, betas=(0.8, 0.9), eps=1e-8)
    for step in range(5):
        theirs.grad = random(5, 7, seed=step)
        adam.step({"x": theirs.grad}, 0.03, step)
        torchs.step()
    torch.testing.assert_close(ours, theirs.detach())


WEIGHTS = {"embed.weight": (9, 8), "blocks.0.mlp.up.weight": (16, 8), "blocks.0.mlp_norm.weight": (8,)}


def optimizer(seed: int) -> tuple[dict[str, Tensor], Optimizer]:
    weights = {name: random(*shape, seed=seed) for name, shape in WEIGHTS.items()}
    return weights, Optimizer(weights)


def test_matrices_inside_blocks_follow_muon_and_all_else_adam() -> None:
    _, each = optimizer(0)
    assert set(each.state()) == {
        "momentum.blocks.0.mlp.up.weight",
        *(f"{table}.{name}" for table in ("mean", "square") for name in ("embed.weight", "blocks.0.mlp_norm.weight")),
    }


def test_state_loads_back_bit_for_bit() -> None:
    rates = Rates(muon_lr=0.02, adam_lr=0.01, momentum=0.9, weight_decay=0.1)
    gradients = [{name: random(*shape, seed=step) for name, shape in WEIGHTS.items()} for step in range(4)]
    weights, straight = optimizer(5)
    for step in range(2):
        straight.step(gradients[step], step, rates)
    resumed_weights = {name: weight.clone() for name, weight in weights.items()}
    resumed = Optimizer(resumed_weights)
    resumed.load({name: tensor.clone() for name, tensor in straight.state().items()})
    for step in (2, 3):
        straight.step(gradients[step], step, rates)
        resumed.step(gradients[step], step, rates)
    for name, weight in weights.items():
        assert torch.equal(weight, resumed_weights[name])


def test_a_state_of_another_architecture_is_refused() -> None:
    _, each = optimizer(0)
    state = dict(each.state())
    state["momentum.blocks.0.mlp.up.weight"] = torch.zeros(3, 3)
    with pytest.raises(CorruptFile, match="another architecture"):
        each.load(state)
