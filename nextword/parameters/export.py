"""Writing a model in a form that others open: Hugging Face's folder, or llama.cpp's GGUF file.

What is written opens in transformers, or in llama.cpp, with the same logits and the same tokens; reading and writing
use the same family and tensor mappings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from nextword.base.atomic import atomic_write
from nextword.encode.gguf_write import tokenizer_to_gguf
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.model.architecture import Architecture
from nextword.parameters.families.family import Family
from nextword.parameters.gguf_model import FREQUENCIES, gguf_from_architecture, gguf_mappings
from nextword.parameters.gguf_write import NewTensor, write_gguf
from nextword.parameters.layout import TensorMapping, store
from nextword.parameters.open import Stored
from nextword.parameters.quants import BLOCK_FORMATS

GGUF_FORMS = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 7}  # by their general.file_type (llama.h, enum llama_ftype)


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
    theirs = store(family.mappings(architecture), weights)
    atomic_write(folder / "model.safetensors", save(theirs, metadata={"format": "pt"}))
    tokenizer.save(folder)
    atomic_write(folder / "generation_config.json", to_json(ids))
    atomic_write(folder / "config.json", to_json(config))  # last: a folder with a config is complete


def to_json(value: object) -> bytes:
    """A value as JSON for people to read, ending in a line feed."""
    return (json.dumps(value, indent=2) + "\n").encode()


def export_gguf(stored: Stored, path: Path, form: str = "F32") -> None:
    """Write an opened model as the GGUF file `path`, which must not exist yet, with its matrices in `form`.

    `form` is one of GGUF_FORMS. As llama.cpp's converter does, vectors and learned positions stay F32, and a matrix
    whose rows are no whole number of blocks becomes F16. Beside Q4_1, embedding and unembedding, which lose most by
    fewer bits, are Q8_0. One tensor is in memory at a time.

    Raises InputError if there is something at `path`, UnsupportedModel and TokenizerError for what GGUF cannot say,
    NoDiskRoom if the disk is full.
    """
    if path.exists():
        raise InputError(f"{path} exists; give the name of a new file.")
    settings, divisors = gguf_from_architecture(stored.family, stored.architecture)
    metadata = {
        **settings,
        "general.name": stored.path.stem,
        "general.file_type": GGUF_FORMS[form],
        "general.quantization_version": 2,
        **tokenizer_to_gguf(stored.tokenizer, stored.architecture.vocab, stored.stop_ids),
    }
    tensors = list(_gguf_tensors(stored, form))
    if divisors is not None:
        tensors.append(NewTensor(FREQUENCIES, "F32", divisors.shape, lambda: divisors))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, metadata, tensors)


def _gguf_tensors(stored: Stored, form: str) -> Iterator[NewTensor]:
    for mapping in gguf_mappings(stored.family, stored.architecture):
        shapes = [stored.tensors[name].shape for name in mapping.ours]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        yield NewTensor(mapping.theirs, _form(mapping.theirs, shape, form), shape, partial(_weights, mapping, stored))


def _form(name: str, shape: tuple[int, ...], wanted: str) -> str:
    if len(shape) == 1 or name == "position_embd.weight":
        return "F32"
    if shape[-1] % BLOCK_FORMATS[wanted].block_weights:
        return "F16"
    return "Q8_0" if wanted == "Q4_1" and name in ("token_embd.weight", "output.weight") else wanted


def _weights(mapping: TensorMapping, stored: Stored) -> npt.NDArray[np.float32]:
    return store([mapping], {name: stored.tensors[name].dequantize() for name in mapping.ours})[mapping.theirs]
