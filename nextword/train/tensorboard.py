"""A run as TensorBoard shows it: the figures of log.jsonl as event files in RUN/tensorboard (`train --tensorboard`).

The files are for looking at only: nothing is read from them. Where a run is resumed, TensorBoard is made to forget the
steps that are taken again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextword.corpus.formats import optional
from nextword.parameters.run_folder import RunFolder
from nextword.train.events import HELDOUT, Event, Measured, Sampled, Stepped, WeightNorms


def require_tensorboard() -> None:
    """Raises InputError naming the extra to install, if TensorBoard is not there."""
    optional("tensorboard", "--tensorboard", "tensorboard")


class Board:
    """The event files of the run in `folder`, which goes on after `step` steps."""

    def __init__(self, folder: Path, step: int) -> None:
        require_tensorboard()
        writer = optional("torch.utils.tensorboard", "--tensorboard", "tensorboard").SummaryWriter
        # What was measured there before a run was killed is measured once more when the run is resumed.
        measured = {record.get("step") for record in RunFolder(folder).records() if HELDOUT in record}
        self._known = step if step in measured else None
        self._writer: Any = writer(str(folder / "tensorboard"), purge_step=step + 1)

    def show(self, event: Event) -> None:
        """Write what the event tells in figures or text."""
        match event:
            case Stepped(step, _, progress, tokens_per_second, mfu):
                figures = {
                    "bits_per_byte/train": progress.bits_per_byte,
                    "training/loss": progress.loss,
                    "training/gradient_norm": progress.gradient_norm,
                    "training/lr_scale": progress.lr_scale,
                    "speed/tokens_per_second": tokens_per_second,
                    "speed/mfu": mfu,
                }
            case Measured(step, evaluation) if step != self._known:
                figures = {"bits_per_byte/heldout": evaluation.bits_per_byte}
            case WeightNorms(step, norms):
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
