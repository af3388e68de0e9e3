"""The model that a run was at one of its checkpoints, named RUN@STEP, opened as any other.

Promises: at the run's last step its odds are those of the run's own model; the text of the run is its text.
"""

from __future__ import annotations

from pathlib import Path

from nextword.api import GPT


def as_checkpoint(name: str) -> tuple[str, int] | None:
    """The run and the step that RUN@STEP names; None for another name."""
    run, _, step = name.rpartition("@")
    return (run, int(step)) if run and step.isascii() and step.isdecimal() and len(step) < 19 else None


def open_checkpoint(
    run: Path, step: int, *, device: str = "auto", weights: str = "auto", kv_cache: str = "auto"
) -> GPT:
    """The model that a run was after `step` steps; `device`, `weights` and `kv_cache` as in `nextword.open`.

    Raises ModelNotFound for a folder without checkpoints, InputError for a step without one, CorruptFile,
    TokenizerError.
    """
    from nextword.trace.checkpoint import stored_checkpoint

    return GPT(stored_checkpoint(run, step), device=device, weights=weights, kv_cache=kv_cache)
