"""Writing a model for other programs: a folder in Hugging Face's layout, or a GGUF file for llama.cpp.

The files open in transformers, or in llama.cpp, with the same logits and the same tokens; reading and writing use the
same family and tensor mappings.
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

GGUF_FORMS = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 7}  # format: general.file_type (llama.h, enum llama_ftype)


def export_hf(stored: Stored, folder: Path) -> None:
    """Write an opened model into an empty or new folder. Weights are written in float32.

    Raises InputError if the folder is not empty, NoDiskRoom if the disk is full.
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
    """Write a model's files into a folder, each atomically, replacing those of the same names.

    Args:
        folder: The folder; made if need be.
        family: The model family whose names of settings and tensors are written.
        architecture: The model's architecture.
        weights: float32 arrays, with the names and shapes of `tensor_shapes(architecture)`.
        tokenizer: The model's tokenizer.
        stop_ids: The ids that end a text (`eos_token_id`).

    Raises:
        NoDiskRoom: The disk is full.
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
    r"""A value as indented JSON that ends in a line feed.

    >>> to_json({"n_layer": 2})
    b'{\n  "n_layer": 2\n}\n'
    """
    return (json.dumps(value, indent=2) + "\n").encode()


def export_gguf(stored: Stored, path: Path, form: str = "F32") -> None:
    """Write an opened model as a GGUF file, with one tensor in memory at a time.

    As llama.cpp's converter does, vectors and learned positions stay F32, and a matrix whose rows are no whole number
    of blocks becomes F16. With Q4_1, embedding and unembedding, which lose most by fewer bits, are Q8_0.

    Args:
        stored: The opened model.
        path: The new file.
        form: The format of the matrices: "F32", "F16", "Q8_0" or "Q4_1".

    Raises:
        InputError: The file exists.
        UnsupportedModel: GGUF cannot say something of the architecture, or a format cannot hold a weight.
        TokenizerError: GGUF cannot say something of the tokenizer.
        NoDiskRoom: The disk is full.
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
