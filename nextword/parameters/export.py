"""Writing a model in Hugging Face's form: config.json, model.safetensors and the tokenizer's files.

What is written opens in transformers with the same logits; reading and writing use the same family and pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from nextword.atomic import atomic_write
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.model.architecture import Architecture
from nextword.parameters.families.family import Family
from nextword.parameters.layout import store
from nextword.parameters.open import Stored


def export_hf(stored: Stored, folder: Path) -> None:
    """Write an opened model into `folder`, which must not hold anything yet. Weights are written in float32.

    Raises InputError if the folder is in use, NoDiskRoom if the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; give a new folder to write into.")
    weights = {name: tensor.dequantize() for name, tensor in stored.tensors.items()}
    write_hf(folder, stored.family, stored.architecture, weights, stored.tokenizer, stored.stop_ids)


def write_hf(
    folder: Path,
    family: Family,
    architecture: Architecture,
    weights: Mapping[str, npt.NDArray[np.float32]],
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
) -> None:
    """Write a model's files into `folder`, each atomically, replacing those of the same names.

    weights: float32 arrays, named and shaped as `tensor_shapes(architecture)`. Raises NoDiskRoom.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eos = sorted(stop_ids)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None}
    config = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        **family.config(architecture),
        **ids,
        "torch_dtype": "float32",
    }
    theirs = store(family.pieces(architecture), weights)
    atomic_write(folder / "model.safetensors", save(theirs, metadata={"format": "pt"}))
    tokenizer.save(folder)
    atomic_write(folder / "generation_config.json", to_json(ids))
    atomic_write(folder / "config.json", to_json(config))  # last: a folder with a config is complete


def to_json(value: object) -> bytes:
    """A value as JSON for people to read, ending in a line feed."""
    return (json.dumps(value, indent=2) + "\n").encode()
