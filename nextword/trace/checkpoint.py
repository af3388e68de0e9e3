"""The model that a run was at one of its checkpoints.

Promises: at the run's last step its odds are those of the run's own model; its family, context and last tokens are
those that the run is stored with.
"""

from __future__ import annotations

from pathlib import Path

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError
from nextword.model.architecture import tensor_shapes
from nextword.model.transformer import Transformer
from nextword.optimize.recipe import from_json
from nextword.parameters.checkpoints import checkpoint_folder, find_checkpoint
from nextword.parameters.open import Stored
from nextword.parameters.stored import StoredTensor
from nextword.parameters.trained import form, read_origin
from nextword.predict.torch_engine import TorchEngine


def stored_checkpoint(run: Path, step: int) -> Stored:
    """What a run was after `step` steps, as if it were stored.

    Raises ModelNotFound for a folder without checkpoints, InputError for a step without one, CorruptFile,
    TokenizerError.
    """
    checkpoint, tokenizer = find_checkpoint(run, step), Tokenizer.from_folder(run)
    try:
        trained = from_json(checkpoint.numbers["recipe"]).architecture
        family, architecture, stop_ids = form(read_origin(checkpoint.numbers), trained, tokenizer.eos_ids)
        tensors = {
            name: StoredTensor.of(checkpoint.tensors[f"weights.{name}"].reshape(shape))
            for name, shape in tensor_shapes(architecture).items()
        }
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise CorruptFile(
            f"The checkpoint after {step} steps in {run} does not hold its model ({error}); remove it."
        ) from error
    return Stored(checkpoint_folder(run, step), family, architecture, tensors, tokenizer, stop_ids)


def checkpoint_model(run: Path, step: int) -> Transformer:
    """The equations with the weights that a run had after `step` steps. Raises what `stored_checkpoint` raises."""
    stored = stored_checkpoint(run, step)
    return TorchEngine(stored.architecture, stored.tensors).transformer
