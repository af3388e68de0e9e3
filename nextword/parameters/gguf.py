"""Reading GGUF, llama.cpp's model file: metadata and memory-mapped tensors.

The reader trusts nothing that the file says about itself: every count, length and offset is checked
against the bytes that are there before anything is allocated or repeated, so time and memory are
linear in the file's size whatever the file claims. A file that contradicts itself is a CorruptFile; one that is well
formed but not supported (another version, big endian, an unknown tensor type) is an UnsupportedModel. Both errors
name the file and the key or tensor.
Format: ggml/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nextword.errors import CorruptFile, UnsupportedModel
from nextword.parameters.quants import BLOCK_FORMATS, Bytes
from nextword.parameters.stored import StoredTensor, map_file, rows_and_bytes

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes: of each tensor's place in the file, where the file does not say
_DIMENSIONS = 4  # dimensions: of a tensor, at most

# enum gguf_metadata_value_type
BOOL, STRING, ARRAY = 7, 8, 9
_CODES = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    BOOL: "<B",
    10: "<Q",
    11: "<q",
    12: "<d",
}
SCALARS = {type_id: struct.Struct(code) for type_id, code in _CODES.items()}
U32, U64 = SCALARS[4], SCALARS[10]
_SMALLEST_KEY = 8 + 4 + 1  # bytes: the length of an empty name, type, one byte of value
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8  # bytes: the length of an empty name, one dimension, type, offset

# enum ggml_type, with the types that are not supported, so that an error can name them
TENSOR_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 16)),
    **dict(enumerate(("I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"), 24)),
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


@dataclass(frozen=True)
class GGUF:
    """A GGUF file's metadata and tensors, under the file's own names.

    Metadata holds int, float, bool and str; arrays of numbers are numpy arrays, arrays of strings are lists.
    """

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path | str) -> GGUF:
    """Read the header of a GGUF file; the tensors are views of the memory-mapped file.

    Raises ModelNotFound, CorruptFile or UnsupportedModel.
    """
    data = map_file(Path(path))
    cursor = _Cursor(data, str(path))
    n_tensors, n_keys = _read_counts(cursor)
    metadata = _read_metadata(cursor, n_keys)
    if type(parts := metadata.get("split.count")) is int and parts > 1:
        raise UnsupportedModel(f"{path} is one of {parts} parts; join them with `llama-gguf-split --merge`.")
    cursor.place = "the list of tensors"
    infos = [_read_info(cursor) for _ in range(n_tensors)]
    return GGUF(metadata, _map_tensors(infos, data, _alignment(metadata, cursor), cursor))


class _Cursor:
    """A reader that moves forward through the file; `place` names, for errors, the part that is being read."""

    def __init__(self, data: Bytes, source: str) -> None:
        self._view = data.data
        self._source = source
        self.at = 0
        self.place = "the header"

    def fail(self, what: str) -> NoReturn:
        raise CorruptFile(f"{self._source}: {self.place} {what}.")

    def refuse(self, what: str) -> NoReturn:
        raise UnsupportedModel(f"{self._source}: {self.place} {what}.")

    def expect(self, size: int) -> None:
        """Fail unless there are `size` more bytes."""
        if size > len(self._view) - self.at:
            self.fail("ends beyond the end of the file (is the file complete?)")

    def take(self, size: int) -> memoryview:
        self.expect(size)
        self.at += size
        return self._view[self.at - size : self.at]

    def number(self, code: struct.Struct) -> Any:
        return code.unpack(self.take(code.size))[0]

    def count(self, smallest: int) -> int:
        """A number of items that follow, each of at least `smallest` bytes; fails if there is no room for them."""
        count: int = self.number(U64)
        self.expect(count * smallest)
        return count

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """`count` strings; the caller has checked `count`. One loop without calls: vocabularies are long."""
        view, at, end, length = self._view, self.at, len(self._view), U64.unpack_from
        found = []
        try:
            for _ in range(count):
                start = at + 8
                if start > end or (at := start + length(view, at)[0]) > end:
                    self.fail("has a string that ends beyond the end of the file (is the file complete?)")
                found.append(str(view[start:at], "utf-8"))
        except UnicodeDecodeError:
            self.fail("has a string that is not UTF-8")
        self.at = at
        return found


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """The number of tensors and the number of metadata keys."""
    if bytes(cursor.take(4)) != MAGIC:
        cursor.fail("does not begin with the letters GGUF")
    version: int = cursor.number(U32)
    if version & 0xFFFF == 0 and version:
        cursor.refuse("is big endian; nextword reads little endian files")
    if version not in _VERSIONS:
        cursor.refuse(f"is of GGUF version {version}; nextword reads versions 2 and 3, so convert the model again")
    return cursor.count(_SMALLEST_TENSOR), cursor.count(_SMALLEST_KEY)


def _read_metadata(cursor: _Cursor, n_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        cursor.place = "the metadata"
        key = cursor.string()
        cursor.place = f"the key {key!r:.100}"
        if key in metadata:
            cursor.fail("is there twice")
        metadata[key] = _read_value(cursor)
    return metadata


def _read_value(cursor: _Cursor) -> Any:
    type_id: int = cursor.number(U32)
    if type_id == STRING:
        return cursor.string()
    if type_id == ARRAY:
        return _read_array(cursor)
    if type_id not in SCALARS:
        cursor.fail(f"has a value of unknown type {type_id}")
    value = cursor.number(SCALARS[type_id])
    return value != 0 if type_id == BOOL else value


def _read_array(cursor: _Cursor) -> Any:
    type_id: int = cursor.number(U32)
    if type_id == STRING:
        return cursor.strings(cursor.count(8))
    if type_id == ARRAY:
        cursor.refuse("is an array of arrays, which ggml does not read either")
    if type_id not in SCALARS:
        cursor.fail(f"is an array of unknown type {type_id}")
    code = SCALARS[type_id]
    items = np.frombuffer(cursor.take(cursor.count(code.size) * code.size), np.dtype(code.format))
    return items != 0 if type_id == BOOL else items.copy()


@dataclass(frozen=True)
class _TensorInfo:
    name: str
    form: str
    shape: tuple[int, ...]
    offset: int


def _read_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.string()
    cursor.place = f"the tensor {name!r:.100}"
    n_dimensions: int = cursor.number(U32)
    if not 1 <= n_dimensions <= _DIMENSIONS:
        cursor.fail(f"has {n_dimensions} dimensions, not 1 to {_DIMENSIONS}")
    shape = tuple(cursor.number(U64) for _ in range(n_dimensions))[::-1]
    if 0 in shape:
        cursor.fail(f"has a dimension of 0 in its shape {shape}")
    type_id: int = cursor.number(U32)
    form = TENSOR_TYPES.get(type_id, f"type {type_id}")
    if form not in BLOCK_FORMATS:
        cursor.refuse(f"is stored as {form}, which nextword does not read; take a Q8_0, Q6_K or Q4_K_M file instead")
    if shape[-1] % BLOCK_FORMATS[form].block_weights:
        cursor.fail(f"has rows of {shape[-1]} weights, not a multiple of {form}'s {BLOCK_FORMATS[form].block_weights}")
    return _TensorInfo(name, form, shape, cursor.number(U64))


def _map_tensors(infos: list[_TensorInfo], data: Bytes, alignment: int, cursor: _Cursor) -> dict[str, StoredTensor]:
    """The tensors as views of the file; fails unless they lie in the file, aligned, without overlaps."""
    tensors: dict[str, StoredTensor] = {}
    start = -(-cursor.at // alignment) * alignment
    end_of_last = 0
    for info in sorted(infos, key=lambda info: info.offset):
        cursor.place = f"the tensor {info.name!r:.100}"
        if info.name in tensors:
            cursor.fail("is there twice")
        if info.offset % alignment:
            cursor.fail(f"begins at byte {info.offset}, which is not aligned to {alignment}")
        if info.offset < end_of_last:
            cursor.fail("overlaps another one")
        size = math.prod(rows_and_bytes(info.form, info.shape))
        end_of_last = info.offset + size
        if start + end_of_last > len(data):
            cursor.fail(f"of shape {info.shape} ends beyond the end of the file (is the file complete?)")
        stored = data[start + info.offset : start + end_of_last].reshape(rows_and_bytes(info.form, info.shape))
        tensors[info.name] = StoredTensor(info.form, info.shape, stored)
    return tensors


def _alignment(metadata: dict[str, Any], cursor: _Cursor) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    cursor.place = "the key 'general.alignment'"
    if type(value) is not int or value <= 0 or value & (value - 1):
        cursor.fail(f"must be a power of two, not {value!r:.100}")
    return value
