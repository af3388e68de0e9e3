"""Packing keeps what it promises to keep, and files of packed weights are believed only where they fit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from nextword.errors import SettingError, UnsupportedModel
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu import packed_file
from nextword.predict.cpu.layout import BF16, FP16, FP32, INT4, INT4_WIDE, INT8
from nextword.predict.cpu.packed import form_of, is_lossless, pack, pack_tensor, packed_shape, unpack
from nextword.predict.engine import check_weights

SHAPE = (70, 512)  # no whole number of tiles


def matrix(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def quantized(form: str) -> StoredTensor:
    """The random matrix as gguf, or numpy, stores it."""
    if form == "BF16":
        bits = matrix().view(np.uint32) >> 16
        return StoredTensor(form, SHAPE, bits.astype("<u2").view(np.uint8))
    if form in ("F32", "F16"):
        return StoredTensor.of(matrix().astype({"F32": np.float32, "F16": np.float16}[form]))
    if form == "Q4_K":  # the gguf package only reads it
        data = np.random.default_rng(0).integers(0, 256, (SHAPE[0], SHAPE[1] // 256, 144), dtype=np.uint8)
        data[..., :4] = np.array([0.01, 0.003], "<f2").view(np.uint8)
        return StoredTensor(form, SHAPE, data.reshape(SHAPE[0], -1))
    data = gguf.quants.quantize(matrix(), getattr(gguf.GGMLQuantizationType, form))
    return StoredTensor(form, SHAPE, np.ascontiguousarray(data.view(np.uint8)))


@pytest.mark.parametrize(
    ("stored", "form"),
    {"F32": FP32, "F16": FP16, "BF16": BF16, "Q8_0": INT8, "Q4_0": INT4, "Q4_1": INT4, "Q4_K": INT4_WIDE}.items(),
)
def test_what_can_be_kept_is_kept_bit_for_bit(stored: str, form: int) -> None:
    tensor = quantized(stored)
    packed = pack({"w": tensor})["w"]
    assert packed.form == form
    assert is_lossless(tensor, form)
    assert packed.data.shape == packed_shape(form, SHAPE)
    assert np.array_equal(unpack(packed), tensor.dequantize())


@pytest.mark.parametrize(("form", "largest"), [(BF16, 2**-8), (INT8, 1 / 250), (INT4, 1 / 14)])
def test_rounding_stays_within_half_a_step(form: int, largest: float) -> None:
    """A step is 1/127 of a group's largest weight (INT8), 1/15 of its range (INT4), 2^-8 of a weight (bfloat16)."""
    tensor = quantized("F32")
    assert not is_lossless(tensor, form)
    difference = np.abs(unpack(pack_tensor("w", tensor, form)) - matrix())
    groups = matrix().reshape(SHAPE[0], -1, 32)
    scale = np.abs(groups).max(-1) if form != INT4 else np.ptp(groups, axis=-1) / 2
    assert (difference.reshape(groups.shape) <= scale[..., None] * largest).all()
    assert difference.max() > 0


def test_five_and_six_bits_become_eight(tmp_path: Path) -> None:
    for stored in ("Q5_0", "Q5_1"):
        tensor = quantized(stored)
        assert form_of("w", tensor, "auto") == INT8
        assert np.abs(unpack(pack({"w": tensor})["w"]) - tensor.dequantize()).max() < 0.02


def test_positions_keep_their_precision() -> None:
    assert form_of("position.weight", quantized("F32"), "int4") == FP32
    assert form_of("position.weight", quantized("Q8_0"), "int8") == FP32


def test_weights_beyond_a_scale_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"blocks\.0"):
        pack({"blocks.0.w.weight": StoredTensor.of(matrix() * np.float32(1e9))}, "int8")
    with pytest.raises(SettingError, match="int3"):
        check_weights("int3")


def test_a_packed_file_is_written_once_and_believed_only_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_file, "MIN_FILE_BYTES", 0)
    tensors = {"a.weight": quantized("Q8_0"), "norm.weight": StoredTensor.of(matrix()[0])}
    path = tmp_path / "packed" / "x.safetensors"
    first = packed_file.load_packed(tensors, "auto", path)
    written = path.stat().st_mtime_ns
    again = packed_file.load_packed(tensors, "auto", path)
    assert path.stat().st_mtime_ns == written
    for name, tensor in tensors.items():
        assert np.array_equal(unpack(first[name]), tensor.dequantize())
        assert np.array_equal(unpack(again[name]), tensor.dequantize())
        assert again[name].address % 64 == 0
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    whole = path.read_bytes()
    for broken in (b"", whole[:-64], b"\xff" * 64 + whole[64:], whole.replace(b"a.weight", b"b.weight", 1)):
        path.write_bytes(broken)
        found = packed_file.load_packed(tensors, "auto", path)
        assert np.array_equal(unpack(found["a.weight"]), tensors["a.weight"].dequantize())
        assert path.read_bytes() == whole, "written anew"


def test_a_changed_model_has_another_packed_file(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"one")
    before = packed_file.packed_path(source, "auto")
    assert packed_file.packed_path(source, "int8") != before
    source.write_bytes(b"other")
    assert packed_file.packed_path(source, "auto") != before


def test_what_is_said_of_a_packed_file_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path))
    folder = packed_file.packed_folder()
    folder.mkdir()
    path = folder / "x.safetensors"
    path.write_bytes(b"")
    error = packed_file.QuantizationError(0.01, 0.99, 1.01, 1.0, 100)
    packed_file.write_description(path, "model.gguf", "int8", False, error)
    assert list(packed_file.packed_files()) == [packed_file.PackedFile(path, "model.gguf", "int8", False, error)]
    path.with_suffix(".json").write_text("[]")
    assert list(packed_file.packed_files()) == []
