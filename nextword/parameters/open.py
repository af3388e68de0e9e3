"""Opening a stored model: a name, a folder or a file becomes an architecture, its weights and its tokenizer.

Nothing is dequantized or copied here: the tensors are views of the memory-mapped files. A model that cannot be run as
it was meant (an unknown family, a setting that changes the mathematics, a missing or surplus tensor) is refused by
name; pickled checkpoints are never loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nextword.encode.gguf import tokenizer_from_gguf
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, ModelNotFound, UnsupportedModel
from nextword.model.architecture import Architecture
from nextword.parameters.bundled import BUNDLED, find_bundled
from nextword.parameters.config import Config
from nextword.parameters.families import FAMILIES
from nextword.parameters.families.family import Family
from nextword.parameters.gguf import read_gguf
from nextword.parameters.gguf_model import FREQUENCIES, config_from_gguf, gguf_mappings
from nextword.parameters.layout import load
from nextword.parameters.pull import KNOWN, find_pulled
from nextword.parameters.safetensors import PICKLES, parse_json, read_sharded
from nextword.parameters.stored import StoredTensor

LARGEST_JSON = 64 << 20  # bytes: of a file of settings


@dataclass(frozen=True)
class Stored:
    """An opened model.

    Args:
        path: The folder or file.
        family: The model family, which knows the names in the files.
        architecture: The model's architecture.
        tensors: The weights as stored, with the names and shapes of `tensor_shapes(architecture)`.
        tokenizer: The model's tokenizer.
        stop_ids: The ids that end a text.
    """

    path: Path
    family: Family
    architecture: Architecture
    tensors: Mapping[str, StoredTensor]
    tokenizer: Tokenizer
    stop_ids: frozenset[int]

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the files that hold the weights, in the order of their names; they are read once."""
        files = [self.path] if self.path.is_file() else sorted(self.path.glob("*.safetensors"))
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def open_stored(model: str | Path) -> Stored:
    """Open a bundled name ("tales"), a pulled one ("smollm2", "owner/model"), a Hugging Face folder or a `.gguf` file.

    Raises ChecksumMismatch, ModelNotFound, CorruptFile, UnsupportedModel or TokenizerError.

    >>> stored = open_stored("tales")
    >>> stored.family.model_type, stored.architecture.n_layers, stored.tensors["embed.weight"].form
    ('qwen3', 10, 'Q8_0')
    """
    path = _find(model)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix in PICKLES:
        raise UnsupportedModel(
            f"{path} is a pickle, which can run any program when it is loaded; nextword never does that. "
            "Convert it with transformers: save_pretrained(folder, safe_serialization=True)."
        )
    if path.suffix == ".safetensors":
        raise UnsupportedModel(f"{path} holds weights only; give its folder, with config.json and tokenizer.json.")
    return _open_gguf(path)


def _find(model: str | Path) -> Path:
    for find in (find_bundled, find_pulled):
        if (found := find(str(model))) is not None:
            return found
    with suppress(RuntimeError):  # "~nobody" of a user that does not exist
        path = Path(model).expanduser()
        if str(model) and path.exists():
            return path
    if str(model) in KNOWN or re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+\.gguf)?", str(model)):
        raise ModelNotFound(f"{model} is not on this machine: get it with `nextword pull {model}`.")
    raise ModelNotFound(
        f"There is no model {str(model)!r}: give a folder, a .gguf file or a name ({', '.join([*BUNDLED, *KNOWN])})."
    )


def _open_folder(folder: Path) -> Stored:
    ggufs = sorted(folder.glob("*.gguf"))
    if not (folder / "config.json").exists() and len(ggufs) == 1:
        return _open_gguf(ggufs[0])
    if not (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
        raise ModelNotFound(
            f"{folder} is a run that has not come to its end, so it has no model yet; go on with: "
            f"nextword train --resume {folder}"
        )
    settings = _read_settings(folder / "config.json")
    family = _family(settings.get("model_type"), FAMILIES, str(folder))
    architecture = _architecture(family, Config(settings, str(folder / "config.json")))
    tensors = _canonical_names(family, read_sharded(folder))
    if architecture.tied:
        tensors.pop("lm_head.weight", None)  # some files repeat the embedding
    ours = load(family.mappings(architecture), tensors, architecture, str(folder))
    tokenizer = Tokenizer.from_folder(folder)
    _check_vocabulary(tokenizer, architecture, folder)
    generation = folder / "generation_config.json"
    stops = _ids(settings.get("eos_token_id")) | tokenizer.eos_ids
    if generation.exists():
        stops |= _ids(_read_settings(generation).get("eos_token_id"))
    return Stored(folder, family, architecture, ours, tokenizer, frozenset(stops))


def _open_gguf(path: Path) -> Stored:
    gguf = read_gguf(path)
    families = {family.gguf.name: family for family in FAMILIES.values()}
    family = _family(gguf.metadata.get("general.architecture"), families, str(path))
    architecture = _architecture(family, Config(config_from_gguf(family, gguf.metadata, gguf.tensors), str(path)))
    tensors = {name: tensor for name, tensor in gguf.tensors.items() if name != FREQUENCIES}
    ours = load(gguf_mappings(family, architecture), tensors, architecture, str(path))
    tokenizer = tokenizer_from_gguf(gguf.metadata)
    _check_vocabulary(tokenizer, architecture, path)
    return Stored(path, family, architecture, ours, tokenizer, tokenizer.eos_ids)


def _family(name: object, families: Mapping[str, Family], source: str) -> Family:
    if not isinstance(name, str) or name not in families:
        known = ", ".join(sorted(families))
        raise UnsupportedModel(f"{source}: nextword does not run the model family {name!r}, only {known}.")
    return families[name]


def _architecture(family: Family, config: Config) -> Architecture:
    try:
        architecture = family.architecture(config)
    except ValueError as error:
        raise CorruptFile(f"{config.source}: {error}") from error
    config.close()
    return architecture


def _canonical_names(family: Family, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors under Hugging Face's names: with the body's prefix where a file omits the prefix, weights only."""
    heads = ("lm_head.", "embed_out.")
    if not any(name.startswith(family.prefix) for name in tensors):
        tensors = {name if name.startswith(heads) else family.prefix + name: t for name, t in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not re.fullmatch(family.leftovers, name)}


def _check_vocabulary(tokenizer: Tokenizer, architecture: Architecture, path: Path) -> None:
    """Raise CorruptFile for a token without a row of the embedding. (Rows without a token are padding.)"""
    if tokenizer.vocab_size > architecture.vocab:
        raise CorruptFile(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the embedding only {architecture.vocab}."
        )


def _ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {each for each in values if isinstance(each, int) and not isinstance(each, bool)}


def _read_settings(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises ModelNotFound or CorruptFile."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CorruptFile(f"{path} is too large to be a model's settings.")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read ({error.strerror}); a model's folder has one.") from error
