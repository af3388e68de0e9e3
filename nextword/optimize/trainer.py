"""The trainer: runs a recipe over a text, a step at a time, and can be stopped and resumed at every step.

A run is a function of its recipe, its text, the weights it starts from and the corrections made on the way. On the
CPU with the same number of threads it gives the same bits every time, and a run that is interrupted and resumed
from its state, however often, gives the bits of the run that was not. A step takes effect as a whole or not
at all: where the loss or a gradient is not finite it is refused with `Diverged`, and `state` is still that before
the step. (A signal must not break into a step: let its handler set a flag, and stop between two steps. After
`OutOfMemory` the trainer is of no more use: its step may have been half taken.)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nextword.errors import CorruptFile, Diverged, InputError, OutOfMemory
from nextword.model.architecture import tensor_shapes
from nextword.model.transformer import Transformer
from nextword.model.types import Tensor
from nextword.optimize.batches import Batch, Text, batch
from nextword.optimize.bigrams import bigram_weights
from nextword.optimize.dropout import Dropout, seeded
from nextword.optimize.evaluate import Evaluation, evaluate
from nextword.optimize.initialize import initial_weights
from nextword.optimize.objective import cross_entropy
from nextword.optimize.optimizer import Optimizer
from nextword.optimize.order import Order
from nextword.optimize.recipe import Correction, Recipe


@dataclass(frozen=True)
class Progress:
    """One step taken.

    Args:
        step: From 0.
        loss: Nats per token of the batch, before the step.
        bits_per_byte: The same in bits per byte of the batch's text.
        tokens: Read since the run began, those before a resume included.
        gradient_norm: L2 norm of all gradients together.
        lr_scale: The factor on the learning rates.
        seconds: Duration of the step.
    """

    step: int
    loss: float
    bits_per_byte: float
    tokens: int
    gradient_norm: float
    lr_scale: float
    seconds: float


@dataclass(frozen=True)
class State:
    """All that a run needs to go on: copies in memory of the CPU.

    Args:
        weights: Float32, named as `nextword.model.architecture.tensor_shapes` says.
        optimizer: Float32, by name.
        numbers: JSON values: `step`, the number of steps taken; `corrections`, what `Trainer.correct` decided.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    numbers: dict[str, Any]


class Trainer:
    """A run of a recipe over a text. Iterating takes the steps that are left and yields the `Progress` of each.

    Args:
        recipe: What to train, and how.
        text: To learn from.
        heldout: That `evaluate` measures on; None: nothing can be measured.
        state: To go on from; None: begin.
        weights: To begin with, if there is no state; None: those that the recipe starts from.
        device: To train on.

    Raises:
        InputError: The text is shorter than one row or has other tokens than the model, or the weights are not the
            architecture's.
        CorruptFile: The state is not this recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        text: Text,
        heldout: Text | None = None,
        *,
        state: State | None = None,
        weights: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.text, self.heldout = recipe, text, heldout
        self.device = torch.device(device)
        self.step = 0
        self.corrections: tuple[Correction, ...] = ()
        a = recipe.architecture
        self._order = Order(len(text.tokens), a.context, recipe.batch_size, recipe.seed)
        if len(text.token_bytes) != a.vocab:
            raise InputError(
                f"The text is written in {len(text.token_bytes)} tokens, but the model knows {a.vocab}; "
                "encode it with the model's own tokenizer."
            )
        if state is not None:
            weights = state.weights
        elif weights is None:
            by_bigrams = recipe.init == "bigrams"
            weights = bigram_weights(text, a, recipe.seed) if by_bigrams else initial_weights(a, recipe.seed)
        if {name: tuple(w.shape) for name, w in weights.items()} != tensor_shapes(a):
            raise InputError("The weights do not fit the recipe's architecture; start from those of the same shape.")
        self._weights = {
            name: weights[name].detach().to(self.device, torch.float32, copy=True) for name in tensor_shapes(a)
        }
        dtype = getattr(torch, recipe.dtype)
        self._optimizer = Optimizer(self._weights, dtype)
        if state is not None:
            self._load(state)
        self._model = self._transformer({name: w.to(dtype) for name, w in self._weights.items()})
        self._dropout = Dropout(recipe.dropout) if recipe.dropout else None
        compiled = recipe.compiled and can_compile(self.device)
        self._states = torch.compile(self._model.states, dynamic=False) if compiled else self._model.states

    @property
    def steps(self) -> int:
        """The number of steps after which the run ends, as decided so far."""
        return self.corrections[-1].steps if self.corrections else self.recipe.steps

    def correct(self, steps: int) -> None:
        """Let the run end after `steps` steps in all; the learning rates go on from here and reach zero there."""
        self.corrections += (Correction(self.step, max(steps, self.step)),)

    def __iter__(self) -> Iterator[Progress]:
        while self.step < self.steps:
            yield self._take_step()

    def state(self) -> State:
        """A copy of all that the run needs to go on after the steps taken so far."""

        def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

        corrections = [dataclasses.asdict(each) for each in self.corrections]
        numbers = {"step": self.step, "corrections": corrections}
        return State(copies(self._weights), copies(self._optimizer.state()), numbers)

    def model(self) -> Transformer:
        """The model in float32, over the trainer's own weights: the next steps change them."""
        return self._transformer(self._weights)

    def norms(self) -> dict[str, float]:
        """Root mean square of the weights of each tensor, by name."""
        return {name: float(weight.square().mean().sqrt()) for name, weight in self._weights.items()}

    def evaluate(self, limit: int | None = None, between: Callable[[], None] = lambda: None) -> Evaluation:
        """Measure the current weights on the held-out text, in the recipe's dtype (`nextword.optimize.evaluate`).

        Raises InputError if there is no held-out text.
        """
        if self.heldout is None:
            raise InputError("No text was held out to measure on; give some with --holdout.")
        return evaluate(self._model, self.heldout, limit, between)

    def _transformer(self, weights: Mapping[str, Tensor]) -> Transformer:
        """A Transformer over these weights, without copying them.

        `.to(device)` only moves the rotary frequencies, a buffer that is not among the weights.
        """
        return Transformer.of(self.recipe.architecture, weights).to(self.device)

    def _load(self, state: State) -> None:
        try:
            self.step = int(state.numbers["step"])
            self.corrections = tuple(Correction(**each) for each in state.numbers["corrections"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(
                f"The stored position in the run cannot be read ({error}); resume from an earlier one."
            ) from None
        self._optimizer.load(state.optimizer)

    def _take_step(self) -> Progress:
        began = time.perf_counter()
        read = batch(self.text, self._order, self.step)
        with self._memory_needed():
            loss, gradients = self._gradients(read)
        norm = float(torch.nn.utils.get_total_norm(gradients.values()))
        if not (isfinite(loss) and isfinite(norm)):
            what = "gradient" if isfinite(loss) else "loss"
            raise Diverged(
                f"The {what} of step {self.step + 1} is not a finite number, so training stops with the weights "
                "before it; start anew with another --seed or fewer layers (--depth)."
            )
        rates = self.recipe.schedule(self.step, self.corrections)
        with self._memory_needed():
            self._optimizer.step(gradients, self.step, rates)
        self._refresh()
        self.step += 1
        return Progress(
            step=self.step - 1,
            loss=loss,
            bits_per_byte=loss * int((read.weights > 0).sum()) / log(2) / max(read.bytes, 1),
            tokens=self.step * read.ids.numel(),
            gradient_norm=norm,
            lr_scale=self.recipe.lr_scale(self.step - 1, self.corrections),
            seconds=time.perf_counter() - began,
        )

    def _gradients(self, read: Batch) -> tuple[float, dict[str, Tensor]]:
        """Loss of the batch in nats per token, and its gradients in float32."""
        ids, targets, weights = (t.to(self.device) for t in (read.ids, read.targets, read.weights))
        with _attention_kernel(self.device), seeded(self.recipe.seed, self.step, self.device):
            states = self._states(ids, hook=self._dropout).flatten(0, 1)
            loss = cross_entropy(states, self._model.unembed.weight, targets.flatten(), weights.flatten())
            torch.autograd.backward(loss)
        gradients = {}
        for name, parameter in self._model.named_parameters():
            assert parameter.grad is not None
            gradients[name] = parameter.grad.float()
            parameter.grad = None
        return float(loss.detach()), gradients

    @contextmanager
    def _memory_needed(self) -> Iterator[None]:
        """Turns torch's ways of saying that memory is used up into OutOfMemory."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:  # only CUDA's has a type of its own
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            a = self.recipe.architecture
            raise OutOfMemory(
                f"Step {self.step + 1} does not fit into the memory of {self.device} ({a.n_parameters:,} parameters, "
                f"{self.recipe.batch_size} x {a.context} tokens); free some, or train fewer layers with --depth."
            ) from error

    @torch.no_grad()
    def _refresh(self) -> None:
        """Let the model compute with the weights as they now are."""
        for name, parameter in self._model.named_parameters():
            if parameter.data_ptr() != self._weights[name].data_ptr():
                parameter.copy_(self._weights[name])


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler, or Triton for a GPU."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return importlib.util.find_spec("triton") is not None


@contextmanager
def _attention_kernel(device: torch.device) -> Iterator[None]:
    """On the CPU, attention by plain matrix products: its fused kernel multiplies bfloat16 far more slowly."""
    with ExitStack() as stack:
        if device.type == "cpu":
            settings: Any = torch.backends.cuda  # the switch is kept there for all devices
            before = settings.fp16_bf16_reduction_math_sdp_allowed()
            settings.allow_fp16_bf16_reduction_math_sdp(True)
            stack.callback(settings.allow_fp16_bf16_reduction_math_sdp, before)
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
