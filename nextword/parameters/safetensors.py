"""Reading safetensors: one file, or a Hugging Face folder of them; never a pickle.

A file is a header's length (u64, little endian), the header (JSON: name -> dtype, shape, data_offsets) and
the tensors' bytes without holes. The reader accepts what the `safetensors` library accepts, except a name
that is there twice, shapes beyond numpy's limits and dtypes of less than a byte; the tests compare the two.
Format: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from nextword.errors import CorruptFile, ModelNotFound, UnsupportedModel
from nextword.parameters.quants import BLOCK_FORMATS, Bytes
from nextword.parameters.stored import StoredTensor, map_file, rows_and_bytes

_LARGEST_HEADER = 100_000_000  # bytes: the limit of the `safetensors` library
_LARGEST_INDEX = 64 << 20  # bytes: of model.safetensors.index.json
_MOST_DIMENSIONS = 64  # dimensions: numpy's own limit
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_safetensors(path: Path | str) -> dict[str, StoredTensor]:
    """The tensors of one file, memory-mapped, in the order of their bytes.

    Integers and masks are listed too, but cannot be dequantized. Raises ModelNotFound, CorruptFile or
    UnsupportedModel.

    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> save_file({"w": np.ones((2, 3), np.float16)}, "a.safetensors")
    >>> tensor = read_safetensors("a.safetensors")["w"]
    >>> tensor.form, tensor.shape, tensor.dequantize().dtype.name
    ('F16', (2, 3), 'float32')
    """
    data = map_file(Path(path))
    if len(data) < 8:
        raise CorruptFile(f"{path} is too short for a safetensors header.")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(_LARGEST_HEADER, len(data) - 8):
        raise CorruptFile(f"{path}: the header claims {length} bytes, more than there are (is the file complete?).")
    header = parse_json(data[8 : 8 + length].tobytes(), f"{path}: the header")
    return _map_tensors(header, data[8 + length :], str(path))


def read_sharded(folder: Path | str) -> dict[str, StoredTensor]:
    """The tensors of a Hugging Face folder: `model.safetensors`, or the shards that its index lists.

    Raises ModelNotFound, CorruptFile or UnsupportedModel.
    """
    folder = Path(folder)
    if (folder / "model.safetensors").exists():
        return read_safetensors(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return _read_shards(index)
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if pickles:
        raise UnsupportedModel(
            f"{folder} holds its weights only as a pickle ({pickles[0]}), which can run any program when it "
            "is loaded, so nextword never does; convert it with transformers: "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    raise ModelNotFound(f"{folder} has no model.safetensors and no model.safetensors.index.json.")


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    text = map_file(index)
    if len(text) > _LARGEST_INDEX:
        raise CorruptFile(f"{index} is too large to be an index.")
    places = parse_json(text.tobytes(), str(index)).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CorruptFile(f"{index}: weight_map must give a file name for every tensor.")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(places.values())):
        for name, tensor in _read_shard(index, shard).items():
            if places.get(name) != shard:
                raise CorruptFile(f"{index}: the tensor {name!r:.100} is in {shard}, where the index does not list it.")
            tensors[name] = tensor
    for name, shard in places.items():
        if name not in tensors:
            raise CorruptFile(f"{index}: the tensor {name!r:.100} is not in {shard}, where the index lists it.")
    return tensors


def _read_shard(index: Path, shard: str) -> dict[str, StoredTensor]:
    if not shard or "\0" in shard or shard != Path(shard).name or "\\" in shard or ":" in shard:
        raise CorruptFile(f"{index}: {shard!r:.100} is not the name of a file in this folder.")
    if not (index.parent / shard).is_file():
        raise ModelNotFound(f"{index.parent} lacks the shard {shard:.100}; download the model again.")
    return read_safetensors(index.parent / shard)


def _map_tensors(header: Mapping[str, Any], data: Bytes, source: str) -> dict[str, StoredTensor]:
    notes = header.get("__metadata__")
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values())):
        raise CorruptFile(f"{source}: __metadata__ must hold strings.")
    entries = [_read_entry(name, value, source) for name, value in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    tensors: dict[str, StoredTensor] = {}
    end = 0
    for entry in entries:
        if entry.start != end:
            _fail(source, entry.name, f"begins at byte {entry.start}, not where the one before it ends ({end})")
        end = entry.end
        tensors[entry.name] = _map(entry, data, source)
    if end != len(data):
        raise CorruptFile(f"{source}: {len(data)} bytes follow the header, not {end} (is the file complete?).")
    return tensors


@dataclass(frozen=True)
class _Entry:
    """One tensor of the header: bytes `start` to `end` of what follows the header."""

    name: str
    form: str
    shape: tuple[int, ...]
    start: int
    end: int


def _fail(source: str, name: str, what: str) -> NoReturn:
    raise CorruptFile(f"{source}: the tensor {name!r:.100} {what}.")


def _read_entry(name: str, value: Any, source: str) -> _Entry:
    fields = value if isinstance(value, dict) else {}
    form, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(form, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        _fail(source, name, "must have a dtype, a shape and two data_offsets")
    if form not in BLOCK_FORMATS or BLOCK_FORMATS[form].block_weights > 1:  # GGUF's blocks are no safetensors dtypes
        raise UnsupportedModel(f"{source}: nextword does not read the dtype {form!r:.40} of {name!r:.100}.")
    return _Entry(name, form, tuple(shape), *offsets)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether the value is a list of numbers that the `safetensors` library reads as u64."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 64 for size in value)


def _map(entry: _Entry, data: Bytes, source: str) -> StoredTensor:
    """The tensor as a view of the file. Raises CorruptFile unless its shape and its bytes fit each other."""
    size = BLOCK_FORMATS[entry.form].block_bytes
    # numpy multiplies the dimensions of an empty array too, those of 0 left out
    if size * math.prod(n or 1 for n in entry.shape) >= 1 << 63 or len(entry.shape) > _MOST_DIMENSIONS:
        _fail(source, entry.name, "has a shape that no memory can hold")
    if entry.end - entry.start != size * math.prod(entry.shape) or entry.end > len(data):
        _fail(
            source,
            entry.name,
            f"of shape {list(entry.shape)} does not fill bytes {entry.start} to {entry.end}",
        )
    stored = data[entry.start : entry.end].reshape(rows_and_bytes(entry.form, entry.shape))
    return StoredTensor(entry.form, entry.shape, stored)


def parse_json(text: bytes, source: str) -> dict[str, Any]:
    """A JSON object, parsed strictly: no name twice, no NaN, names in UTF-8. Raises CorruptFile, naming `source`."""
    try:
        value = json.loads(
            str(text, "utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{source} is not valid JSON ({error!s:.100}).") from error
    if not isinstance(value, dict):
        raise CorruptFile(f"{source} is not a JSON object.")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r:.60} is there twice")
        name.encode()  # refuses half a surrogate pair
        found[name] = value
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)  # -0 is no natural number, so no size
