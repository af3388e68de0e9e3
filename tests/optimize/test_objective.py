"""The chunked objective is torch's cross-entropy: losses and gradients, any dtype, any weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from nextword.model.types import Tensor
from nextword.optimize import objective
from nextword.optimize.objective import cross_entropy, token_losses


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objective._LOGITS, "cpu", 37 * 64)
    monkeypatch.setattr(objective, "_TOKENS", 8)


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(150, 24, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    unembedding = torch.randn(37, 24, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return states, unembedding, torch.randint(37, (150,), generator=generator)


def plain(states: Tensor, unembedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(states @ unembedding.T, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_are_those_of_torch(dtype: torch.dtype, tolerance: float, masked: bool) -> None:
    states, unembedding, targets = problem(dtype)
    counts = (torch.arange(150) % 3 > 0).to(dtype) if masked else torch.ones(150, dtype=dtype)
    weights = counts / counts.sum()
    ours, theirs = (f(states, unembedding, targets, weights) for f in (cross_entropy, plain))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    ours_gradients = torch.autograd.grad(3 * ours, (states, unembedding))
    for a, b in zip(ours_gradients, torch.autograd.grad(3 * theirs, (states, unembedding)), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_masked_tokens_leave_no_trace() -> None:
    states, unembedding, targets = problem(torch.float32)
    weights = torch.zeros(150)
    weights[7] = 1
    loss = cross_entropy(states, unembedding, targets, weights)
    gradient = torch.autograd.grad(loss, states)[0]
    assert gradient[7].abs().sum() > 0
    gradient[7] = 0
    assert not gradient.any()


def test_bfloat16_differs_by_its_rounding_only() -> None:
    states, unembedding, targets = problem(torch.bfloat16)
    weights = torch.full((150,), 1 / 150)
    loss = cross_entropy(states, unembedding, targets, weights)
    exact_states, exact_unembedding, _ = (
        t.detach().double().requires_grad_(t.is_floating_point()) for t in (states, unembedding, targets)
    )
    exact = plain(exact_states, exact_unembedding, targets, weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=5e-3, atol=0)
    gradients = torch.autograd.grad(loss, (states, unembedding))
    for a, b in zip(gradients, torch.autograd.grad(exact, (exact_states, exact_unembedding)), strict=True):
        assert (a.double() - b).norm() < 0.01 * b.norm()


def test_large_logits_neither_overflow_nor_vanish() -> None:
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = cross_entropy(states, torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1]), torch.ones(2))
    assert loss.item() == 2e4


def test_token_losses_are_those_of_torch() -> None:
    states, unembedding, targets = problem(torch.float64)
    losses = F.cross_entropy(states @ unembedding.T, targets, reduction="none")
    torch.testing.assert_close(token_losses(states, unembedding, targets), losses, rtol=1e-12, atol=1e-12)


def test_no_chunk_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = objective._log_softmax

    def spy(states: Tensor, unembedding: Tensor) -> Tensor:
        sizes.append(len(states))
        return original(states, unembedding)

    monkeypatch.setattr(objective, "_log_softmax", spy)
    states, unembedding, targets = problem(torch.float32)
    cross_entropy(states, unembedding, targets, torch.ones(150))
    assert sizes == [64, 64, 22]
    assert all(a >= b for a, b in pairwise(sizes))
