"""The clock of a run: its time, the pace of its steps and measurements, and where it has to end to be on time.

Promise: in a run of a number of steps nothing is decided by the clock, so that its log is the same every time.
"""

from __future__ import annotations

import time

from nextword.train.plan import FINAL_LIMIT, MEASURING, Budget

QUICK_LIMIT, _LEAST = 8_192, 1024  # tokens: of held-out text that are measured on the way, at most and at least
MEASUREMENTS = 20  # measurements: of held-out text on the way
_LEARNING = 2  # ratio: duration of learning from a token to that of measuring it, about
_SAMPLE_EVERY = 30.0  # seconds: between samples, at least
_SLOWER = 3  # factor: by which the pace may have fallen since the last look, at most; the rest was a halt
_TOLERANCE = 0.02  # share of the remaining steps: a smaller correction is not worth one


class Clock:
    """The time of a run under `budget`, which had taken `spent` seconds when this process began at `began`.

    `step_seconds` is the duration of a step, averaged over the last ones; `token_seconds` that of measuring a token in
    the last measurement. Both are None until there was one.

    Args:
        budget: Of the run.
        began: time.monotonic() of this process's share of the run.
        spent: Seconds before that.
    """

    def __init__(self, budget: Budget, began: float, spent: float) -> None:
        self.budget = budget
        self.step_seconds: float | None = None
        self.token_seconds: float | None = None
        self._began, self._spent = began, spent
        self._looked_at, self._looked_after = began, 0  # time and step of the last look
        self._whole_pace: float | None = None  # seconds of a step with the measurements and checkpoints around it
        self._sampled_at = began

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken."""
        return self._spent + time.monotonic() - self._began

    def start(self, step: int) -> None:
        """Note that the steps after `step` begin now."""
        self._looked_at, self._looked_after = time.monotonic(), step

    def stepped(self, seconds: float) -> float:
        """Note the duration of a step. Returns `step_seconds`."""
        before = self.step_seconds
        self.step_seconds = seconds if before is None else 0.9 * before + 0.1 * seconds
        return self.step_seconds

    def measured(self, seconds: float, tokens: int) -> None:
        """Note that measuring `tokens` tokens took `seconds` seconds."""
        self.token_seconds = seconds / tokens

    def sample_is_due(self) -> bool:
        """Whether the last sample was written long enough ago."""
        return time.monotonic() - self._sampled_at > _SAMPLE_EVERY

    def sampled(self) -> None:
        """Note that a sample was written just now."""
        self._sampled_at = time.monotonic()

    def quick_limit(self, learned: int) -> int:
        """Tokens to measure on the way: fewer where that would take much of the time.

        Args:
            learned: Tokens that all steps of the run read.
        """
        if self.budget.minutes is None:
            affordable = _LEARNING * MEASURING * learned / MEASUREMENTS
        elif self.token_seconds is None:
            affordable = _LEAST
        else:
            affordable = MEASURING * 60 * self.budget.minutes / MEASUREMENTS / self.token_seconds
        return min(QUICK_LIMIT, max(_LEAST, int(affordable)))

    def final_limit(self) -> int:
        """Tokens to measure at the end."""
        return FINAL_LIMIT if self.token_seconds is None else self.budget.final_limit(self.token_seconds)

    def end_on_time(self, step: int, steps: int, n_heldout: int) -> int | None:
        """The step after which a run of a number of minutes has to end to be on time; None: as planned, about.

        Args:
            step: Steps taken.
            steps: After which the run will end, as decided so far.
            n_heldout: Tokens that can be measured at the end.
        """
        (then, before), now = (self._looked_at, self._looked_after), time.monotonic()
        self._looked_at, self._looked_after = now, step
        final = 0.0 if self.token_seconds is None else self.token_seconds * min(self.final_limit(), n_heldout)
        left = self.budget.seconds_left(self.elapsed, final)
        if left is None or step == before:
            return None
        pace = (now - then) / (step - before)
        if self._whole_pace is not None:  # a process that was halted for a while has lost time, but not its speed
            pace = 0.7 * self._whole_pace + 0.3 * min(pace, _SLOWER * self._whole_pace)
        self._whole_pace = pace
        end = step + max(int(left / pace), 0)
        return None if abs(end - steps) <= _TOLERANCE * (steps - step) else end
