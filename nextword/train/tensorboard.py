"""A run as TensorBoard shows it: the figures of log.jsonl as event files in RUN/tensorboard (`train --tensorboard`).

They are for looking at only: nothing is read from them. Where a run is resumed, TensorBoard is told to forget the steps
that are taken again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextword.corpus.formats import optional
from nextword.train.run import Event, Measured, Sampled, Stepped, Weighed


def require_tensorboard() -> None:
    """Raises InputError naming the extra to install, if TensorBoard is not there."""
    optional("tensorboard", "--tensorboard", "tensorboard")


class Board:
    """The event files of the run in `folder`, which goes on after `step` steps."""

    def __init__(self, folder: Path, step: int) -> None:
        require_tensorboard()
        writer = optional("torch.utils.tensorboard", "--tensorboard", "tensorboard").SummaryWriter
        log = folder / "log.jsonl"
        lines = log.read_bytes().splitlines() if log.exists() else []
        # What was measured there before a run was killed is measured once more when it is resumed.
        self._known = step if any(_tells_heldout(line, step) for line in lines) else None
        self._writer: Any = writer(str(folder / "tensorboard"), purge_step=step + 1)

    def show(self, event: Event) -> None:
        """Write what the event tells in figures or text."""
        match event:
            case Stepped(step, _, progress, tokens_per_second, share_of_peak):
                figures = {
                    "bits_per_byte/train": progress.bits_per_byte,
                    "training/loss": progress.loss,
                    "training/gradient_norm": progress.gradient_norm,
                    "training/level": progress.level,
                    "speed/tokens_per_second": tokens_per_second,
                    "speed/share_of_peak": share_of_peak,
                }
            case Measured(step, evaluation) if step != self._known:
                figures = {"bits_per_byte/heldout": evaluation.bits_per_byte}
            case Weighed(step, norms):
                figures = {f"norms/{name}": norm for name, norm in norms.items()}
            case Sampled(step, text):
                self._writer.add_text("sample", text, step)
                return
            case _:
                return
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """All is on the disk when this returns."""
        self._writer.close()


def _tells_heldout(line: bytes, step: int) -> bool:
    with suppress(ValueError, TypeError, KeyError):  # the last line of a killed run may be half a line
        return "heldout_bits_per_byte" in (record := json.loads(line)) and record["step"] == step
    return False
