"""Measuring a run on its held-out text: on samples on the way, as a whole at the end, and where a target may be near.

Promise: what is found at the end is found again, and no more than once, where the run is stopped amid it and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nextword.optimize.evaluate import Evaluation, evaluate
from nextword.optimize.trainer import Trainer
from nextword.parameters.run_folder import RunFolder
from nextword.predict.torch_engine import checkpoint_model
from nextword.train.clock import Clock
from nextword.train.events import HELDOUT, EarlierWasBetter

_NEAR = 0.05  # share of the target: by which a quick sample may be off
_WORTH_TELLING = 0.01  # share of the bits per byte
_FIRST = 1024  # tokens: from which the pace of measuring is learned


class Measurements:
    """The measurements of a run.

    Args:
        run: The run folder, whose log and checkpoints are looked at in the end.
        trainer: Whose model is measured.
        clock: Told how long measuring takes; says how much is to be measured.
        between: Called before each few thousand tokens; an exception that it raises ends the measurement.
    """

    def __init__(self, run: RunFolder, trainer: Trainer, clock: Clock, between: Callable[[], None]) -> None:
        self._run, self._trainer, self._clock, self._between = run, trainer, clock, between
        self._whole: tuple[int, Evaluation] | None = None  # the last whole measurement, and after which step it was
        # Full held-out bits per byte divided by the quick sample's, from the last time both were measured.
        self._bias = 1 - _NEAR

    def sample(self) -> Evaluation:
        """Measure a sample of the held-out text."""
        recipe = self._trainer.recipe
        learned = recipe.steps * recipe.batch_size * recipe.architecture.context
        return self._evaluate(self._clock.quick_limit(learned))

    def whole(self) -> Evaluation:
        """Measure as much as at the end, unless that was done after this step."""
        if self._whole is None or self._whole[0] != self._trainer.step:
            if self._clock.token_seconds is None:
                self._evaluate(_FIRST)
            self._whole = self._trainer.step, self._evaluate(self._clock.final_limit())
        return self._whole[1]

    def reaches_target(self, sample: Evaluation) -> bool:
        """Whether the budget's target is reached; the whole is measured where the sample is near it."""
        until, found = self._clock.budget.until, sample.bits_per_byte
        if until is None or found * self._bias > until:
            return False
        whole = self.whole().bits_per_byte
        self._bias = whole / found
        return whole <= until

    def find_better(self) -> EarlierWasBetter | None:
        """A checkpoint that is better than the end, looked for where a sample on the way lets one expect it."""
        if self._trainer.heldout is None:
            return None
        end = self.whole()
        records = [record for record in self._run.records() if HELDOUT in record]
        best = min(records, key=lambda record: record[HELDOUT], default=None)
        if best is None or not _is_clearly_less(best[HELDOUT], end):
            return None
        stored = [step for step in self._run.steps() if step < self._trainer.step]
        before = [step for step in stored if step <= best["step"]][-1:]
        after = [step for step in stored if step > best["step"]][:1]
        bits, step = min((self._bits_at(step, end.tokens), step) for step in before + after)
        return EarlierWasBetter(self._trainer.step, step, bits) if _is_clearly_less(bits, end) else None

    def _bits_at(self, step: int, limit: int) -> float:
        """Bits per byte on the held-out text after a step that left a checkpoint."""
        assert self._trainer.heldout is not None
        model = checkpoint_model(self._run.path, step).to(self._trainer.device)
        return evaluate(model, self._trainer.heldout, limit, self._between).bits_per_byte

    def _evaluate(self, limit: int) -> Evaluation:
        began = time.monotonic()
        evaluation = self._trainer.evaluate(limit, self._between)
        self._clock.measured(time.monotonic() - began, evaluation.tokens)
        return evaluation


def _is_clearly_less(bits: float, end: Evaluation) -> bool:
    """Whether `bits` is lower by more than what a sample, which can be easier than the whole, may be off."""
    return bits < (1 - _WORTH_TELLING) * end.bits_per_byte
