"""A tensor as it is stored: bytes of a memory-mapped file, and the format that turns them into numbers.

Nothing is copied until `dequantize`, and rows can be picked while they are still packed, so that opening a
model costs no memory and an engine with kernels for packed weights can use the file's own bytes.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.errors import CorruptFile, ModelNotFound, UnsupportedModel
from nextword.parameters.quants import BLOCK_FORMATS, Bytes, Floats

_DEQUANTIZED_WEIGHTS = 1 << 17  # weights: dequantized at a time; their temporaries stay in a core's cache


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as stored.

    Args:
        form: The format of the weights, a key of `quants.BLOCK_FORMATS` ("F32", "Q8_0", ...).
        shape: The shape in numpy's order (rows first).
        data: uint8 [rows, bytes of a row], contiguous. The number of rows is 1 for a scalar or a vector, and the
            product of the leading dimensions otherwise; blocks of packed weights run along the last axis.

    >>> import numpy as np
    >>> tensor = StoredTensor.of(np.arange(6, dtype=np.float16).reshape(3, 2))
    >>> tensor.form, tensor.shape, tensor.data.shape, tensor.nbytes
    ('F16', (3, 2), (3, 4), 12)
    >>> tensor.rows(slice(1, 2)).dequantize()
    array([[2., 3.]], dtype=float32)
    """

    form: str
    shape: tuple[int, ...]
    data: Bytes

    def __post_init__(self) -> None:
        assert self.data.shape == rows_and_bytes(self.form, self.shape)
        assert self.data.dtype == np.uint8
        assert self.data.flags.c_contiguous

    @staticmethod
    def of(array: npt.NDArray[Any]) -> StoredTensor:
        """A float32 or float16 array as a stored tensor, without a copy if it is contiguous."""
        form = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
        return StoredTensor(form, array.shape, flat.view(np.uint8).reshape(rows_and_bytes(form, array.shape)))

    @property
    def nbytes(self) -> int:
        """Size in bytes, as stored."""
        return self.data.nbytes

    def dequantize(self) -> Floats:
        """The weights: a new, writable float32 array of `shape`.

        Temporaries take less than a few megabytes. F64 is rounded to float32; infinities and NaN stay as they are.
        Raises UnsupportedModel for integers, masks and 8-bit floats.
        """
        form = BLOCK_FORMATS[self.form]
        if form.dequantize is None:
            raise UnsupportedModel(f"A tensor stored as {self.form} holds no weights that nextword can read.")
        blocks = self.data.reshape(-1, form.block_bytes)
        out = np.empty((len(blocks), form.block_weights), np.float32)
        step = _DEQUANTIZED_WEIGHTS // form.block_weights
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(blocks), step):
                form.dequantize(blocks[start : start + step], out[start : start + step])
        return out.reshape(self.shape)

    def rows(self, index: npt.NDArray[np.intp] | slice) -> StoredTensor:
        """Rows of a matrix, still packed: a view for a slice, a copy for an array of row numbers."""
        assert len(self.shape) == 2
        data = np.ascontiguousarray(self.data[index])
        return StoredTensor(self.form, (len(data), self.shape[1]), data)

    def transpose(self) -> StoredTensor:
        """The transposed matrix, dequantized to F32 (blocks cannot be transposed)."""
        return StoredTensor.of(self.dequantize().T)


def rows_and_bytes(form: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of `StoredTensor.data`. The last dimension must be a whole number of blocks.

    >>> rows_and_bytes("Q8_0", (4, 64))
    (4, 68)
    """
    width = shape[-1] if shape else 1
    blocks, rest = divmod(width, BLOCK_FORMATS[form].block_weights)
    assert rest == 0
    return math.prod(shape[:-1]), blocks * BLOCK_FORMATS[form].block_bytes


def map_file(path: Path) -> Bytes:
    """The bytes of a file, uint8 [size], read-only and memory-mapped.

    Raises ModelNotFound if it cannot be opened, CorruptFile if it is empty.
    """
    if not path.is_file():  # opening a pipe would never return
        raise ModelNotFound(f"{path} is not a file.")
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise CorruptFile(f"{path} is empty.")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}.") from error
