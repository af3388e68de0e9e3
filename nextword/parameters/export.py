"""Writing a model in Hugging Face's form: config.json, model.safetensors and the tokenizer's files.

What is written opens in transformers with the same logits; reading and writing use the same family and pieces.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save

from nextword.errors import InputError
from nextword.parameters.atomic import atomic_write
from nextword.parameters.layout import store
from nextword.parameters.open import Stored


def export_hf(stored: Stored, folder: Path) -> None:
    """Write the model into `folder`, which must not hold one yet. Weights are written in float32.

    Raises InputError if the folder is in use, NoDiskRoom if the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; give a new folder to write into.")
    folder.mkdir(parents=True, exist_ok=True)
    family, architecture = stored.family, stored.architecture
    tokenizer = stored.tokenizer
    eos = sorted(stored.stop_ids)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos[0] if len(eos) == 1 else eos or None}
    config = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        **family.config(architecture),
        **ids,
        "torch_dtype": "float32",
    }
    weights = store(
        family.pieces(architecture),
        {name: tensor.dequantize() for name, tensor in stored.tensors.items()},
    )
    atomic_write(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    tokenizer.save(folder)
    atomic_write(folder / "generation_config.json", _json(ids))
    atomic_write(folder / "config.json", _json(config))  # last: a folder with a config is complete


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
