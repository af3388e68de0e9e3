"""The model that a run was at one of its checkpoints, named RUN@STEP, opened as any other.

Promises: at the run's last step its odds are those of the run's own model; the text of the run is its text.
"""

from __future__ import annotations

from pathlib import Path

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError
from nextword.gpt import GPT
from nextword.model.architecture import tensor_shapes
from nextword.parameters.checkpoints import checkpoint_folder, find_checkpoint
from nextword.parameters.open import Stored
from nextword.parameters.stored import StoredTensor


def as_checkpoint(name: str) -> tuple[str, int] | None:
    """The run and the step that RUN@STEP names; None for another name."""
    run, _, step = name.rpartition("@")
    return (run, int(step)) if run and step.isascii() and step.isdecimal() and len(step) < 19 else None


def open_checkpoint(run: Path, step: int, *, device: str = "auto", weights: str = "auto") -> GPT:
    """The model that a run was after `step` steps; `device` and `weights` as in `nextword.open`.

    Raises ModelNotFound for a folder without checkpoints, InputError for a step without one, CorruptFile,
    TokenizerError.
    """
    from nextword.optimize.recipe import from_json
    from nextword.run import FAMILY
    from nextword.run_from import read_origin

    checkpoint, tokenizer = find_checkpoint(run, step), Tokenizer.from_folder(run)
    try:
        architecture = from_json(checkpoint.numbers["recipe"]).architecture
        family, stop_ids, origin = FAMILY, tokenizer.eos_ids, read_origin(checkpoint.numbers)
        if origin is not None:
            family, architecture, stop_ids = origin.form(architecture)
        tensors = {
            name: StoredTensor.of(checkpoint.tensors[f"weights.{name}"].reshape(shape))
            for name, shape in tensor_shapes(architecture).items()
        }
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CorruptFile(f"The checkpoint after {step} steps does not hold its model ({error}); remove it.") from error
    stored = Stored(checkpoint_folder(run, step), family, architecture, tensors, tokenizer, stop_ids)
    return GPT(stored, device=device, weights=weights)
