"""The events of a run, which `Run.train` yields, and their records: lines of log.jsonl and of `train --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nextword.optimize.evaluate import Evaluation
from nextword.optimize.trainer import Progress

HELDOUT, ENDS_AFTER = "heldout_bits_per_byte", "ends_after"  # keys of the records of Measured and Corrected


@dataclass(frozen=True)
class Stepped:
    """A step was taken.

    Args:
        step: From 1.
        steps: After which the run will end, as decided so far.
        progress: What the trainer tells of the step.
        tokens_per_second: Averaged over the last steps.
        mfu: Model FLOPs utilization (Chowdhery et al., PaLM, 2022): FLOP/s of the steps divided by the FLOP/s that
            were measured in products of large matrices (`nextword.optimize.preflight`).
    """

    step: int
    steps: int
    progress: Progress
    tokens_per_second: float
    mfu: float

    @property
    def is_logged(self) -> bool:
        """Whether the log shows this step: the first hundred, every tenth, and the last."""
        return self.step <= 100 or self.step % 10 == 0 or self.step == self.steps

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        speed = {"tokens_per_second": round(self.tokens_per_second, 1), "mfu": round(self.mfu, 4)}
        return {**asdict(self.progress), "step": self.step, **speed}


@dataclass(frozen=True)
class Measured:
    """A sample of the held-out text was measured after `step` steps."""

    step: int
    evaluation: Evaluation

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        return {"step": self.step, HELDOUT: self.evaluation.bits_per_byte, "heldout_tokens": self.evaluation.tokens}


@dataclass(frozen=True)
class WeightNorms:
    """The root mean square of each tensor of weights after `step` steps."""

    step: int
    norms: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        return {"step": self.step, "norms": {name: float(f"{norm:.4g}") for name, norm in self.norms.items()}}


@dataclass(frozen=True)
class Sampled:
    """The model's text after `step` steps; its prompt is the token that begins a text and nothing else."""

    step: int
    text: str

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        return {"step": self.step, "sample": {"prompt": "", "text": self.text}}


@dataclass(frozen=True)
class Corrected:
    """The end of the run was moved, after `step` steps, to `steps` steps in all."""

    step: int
    steps: int

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        return {"step": self.step, ENDS_AFTER: self.steps}


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop after `step` of its `steps` steps; its state is saved."""

    step: int
    steps: int

    def record(self) -> dict[str, Any]:
        """The line of `train --json`."""
        return {"done": False, "step": self.step, "steps": self.steps}


@dataclass(frozen=True)
class EarlierWasBetter:
    """An earlier checkpoint predicts the held-out text better than the model at the run's end.

    Args:
        step: Of the end.
        better: Step of the checkpoint.
        bits_per_byte: Of the checkpoint on the held-out text.
    """

    step: int
    better: int
    bits_per_byte: float

    def record(self) -> dict[str, Any]:
        """The record in the log."""
        return {"step": self.step, "better": {"step": self.better, "bits_per_byte": self.bits_per_byte}}


@dataclass(frozen=True)
class Finished:
    """The run is over and its files are written; `results` as they stand in card.json."""

    results: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """The line of `train --json`."""
        return {"done": True, **self.results}


Event = Stepped | Measured | WeightNorms | Sampled | Corrected | Stopped | EarlierWasBetter | Finished
