"""Stored tensors become the float32 numbers that ggml's own code says they are, bit for bit."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf import quants as referee

from nextword.errors import CorruptFile, ModelNotFound, UnsupportedModel
from nextword.parameters.quants import BLOCK_FORMATS
from nextword.parameters.stored import StoredTensor, map_file

BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
FLOATS = ["F32", "F16", "BF16"]
INTEGERS = [name for name, form in BLOCK_FORMATS.items() if form.dequantize is None]


def random_bytes(form: str, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, blocks * BLOCK_FORMATS[form].block_bytes), dtype=np.uint8)


def stored(form: str, data: np.ndarray) -> StoredTensor:
    width = data.shape[1] // BLOCK_FORMATS[form].block_bytes * BLOCK_FORMATS[form].block_weights
    return StoredTensor(form, (len(data), width), data)


def expected(form: str, data: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return referee.dequantize(data, GGMLQuantizationType[form])


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal bit for bit; only the payload of a NaN is free."""
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    numbers = ~np.isnan(ours)
    np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


@pytest.mark.parametrize("form", BLOCKS + FLOATS)
def test_random_bytes_dequantize_as_in_ggml(form: str) -> None:
    data = random_bytes(form, 37, 12)
    assert_same_bits(stored(form, data).dequantize(), expected(form, data))


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16"])
def test_quantized_weights_come_back(form: str) -> None:
    weights = np.random.default_rng(1).normal(size=(9, 96)).astype(np.float32)
    data = referee.quantize(weights, GGMLQuantizationType[form]).view(np.uint8)
    back = stored(form, data).dequantize()
    assert_same_bits(back, expected(form, data))
    assert np.abs(back - weights).max() < 0.4


def test_every_half_is_read_exactly() -> None:
    halves = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(256, -1)
    assert_same_bits(stored("F16", halves).dequantize(), expected("F16", halves))
    assert_same_bits(stored("BF16", halves).dequantize(), expected("BF16", halves))


def test_doubles_are_rounded() -> None:
    values = np.array([[1 / 3, 1e300, -np.inf, np.nan]])
    with np.errstate(over="ignore"):
        assert_same_bits(stored("F64", values.view(np.uint8)).dequantize(), values.astype(np.float32))


@pytest.mark.parametrize("form", INTEGERS)
def test_integers_are_no_weights(form: str) -> None:
    with pytest.raises(UnsupportedModel, match=form):
        stored(form, random_bytes(form, 2, 3)).dequantize()


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4), (0,), (0, 4), (3, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_array_comes_back_as_it_was(shape: tuple[int, ...], dtype: type) -> None:
    array = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    tensor = StoredTensor.of(array)
    assert (tensor.shape, tensor.nbytes) == (shape, array.nbytes)
    back = tensor.dequantize()
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array.astype(np.float32), strict=True)


def test_any_layout_of_an_array_is_taken() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array.T, array[:, ::2], array.astype(">f4"), np.asfortranarray(array)):
        np.testing.assert_array_equal(StoredTensor.of(view).dequantize(), view.astype(np.float32))


@pytest.mark.parametrize("form", BLOCKS + FLOATS)
def test_rows_are_picked_without_unpacking(form: str) -> None:
    tensor = stored(form, random_bytes(form, 10, 2))
    whole = tensor.dequantize()
    for index in (slice(2, 7), slice(None, None, 3), np.array([9, 0, 0, 4])):
        picked = tensor.rows(index)
        assert picked.form == form
        assert_same_bits(picked.dequantize(), whole[index])
    assert np.shares_memory(tensor.rows(slice(2, 7)).data, tensor.data)


def test_transpose() -> None:
    tensor = stored("Q8_0", random_bytes("Q8_0", 5, 2))
    flipped = tensor.transpose()
    assert (flipped.form, flipped.shape) == ("F32", (64, 5))
    assert_same_bits(flipped.dequantize(), tensor.dequantize().T)


@pytest.mark.parametrize("shape", [(4096 * 256,), (1, 4096 * 256), (4096, 256), (64, 64, 256)])
def test_memory_is_bounded_by_the_result(shape: tuple[int, ...]) -> None:
    data = random_bytes("Q6_K", 1, 4096)
    tensor = StoredTensor("Q6_K", shape, data.reshape(math.prod(shape[:-1]), -1))
    tracemalloc.start()
    result = tensor.dequantize()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == shape
    assert peak < result.nbytes + (2 << 20)


def test_a_mapped_file_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    data = map_file(path)
    assert data.tobytes() == b"abc"
    assert not data.flags.writeable


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a file"):
        map_file(tmp_path / "missing")
    with pytest.raises(ModelNotFound, match="not a file"):
        map_file(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(CorruptFile, match="empty"):
        map_file(tmp_path / "empty")
