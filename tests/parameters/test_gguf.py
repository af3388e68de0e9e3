"""GGUF files are read as the `gguf` package reads them; lying ones are refused in one sentence."""

from __future__ import annotations

import struct
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.errors import CorruptFile, ModelNotFound, NextwordError, UnsupportedModel
from nextword.parameters.gguf import read_gguf

U32, STRING, ARRAY = 4, 8, 9
F32, Q2_K, Q8_0 = 0, 10, 8
LARGEST = (1 << 64) - 1


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, type_id: int = U32, value: bytes = b"\1\0\0\0") -> bytes:
    return text(name) + struct.pack("<I", type_id) + value


def aligned(value: bytes, type_id: int = U32) -> bytes:
    return key("general.alignment", type_id, value)


def array(type_id: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", type_id, count) + items


def tensor(name: str, dimensions: tuple[int, ...] = (4,), type_id: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, type_id, offset)


def build(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = bytes(64),
    *,
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """A GGUF file of these parts, well formed or not."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def read(folder: Path, content: bytes) -> Any:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file with every kind of value and tensor, as the gguf package writes it."""
    path = tmp_path_factory.mktemp("gguf") / "valid.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in {
        "uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 1 << 31, "int32": -70000,
        "uint64": LARGEST, "int64": -(1 << 62), "float32": 0.5, "float64": 0.1, "bool": True, "string": "ñ𝄞",
    }.items():  # fmt: skip
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_bool("test.no", False)
    writer.add_array("test.tokens", ["a", "", "Ġthe", "𝄞"])
    writer.add_array("test.types", [1, -2, 3])
    writer.add_array("test.scores", [0.5, -1e30])
    writer.add_array("test.flags", [True, False, True])
    rng = np.random.default_rng(0)
    writer.add_tensor("vector", rng.normal(size=5).astype(np.float32))
    writer.add_tensor("half", rng.normal(size=(3, 5)).astype(np.float16))
    writer.add_tensor("cube", rng.normal(size=(2, 3, 4)).astype(np.float32))
    writer.add_tensor("double", rng.normal(size=(2, 2)))
    writer.add_tensor("steps", np.arange(6, dtype=np.int32))
    for form in ("BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        kind = gguf.GGMLQuantizationType[form]
        packed = gguf.quants.quantize(rng.normal(size=(3, 64)).astype(np.float32), kind)
        writer.add_tensor(form, packed, raw_dtype=kind)
    for form in ("Q4_K", "Q5_K", "Q6_K"):
        kind = gguf.GGMLQuantizationType[form]
        block = np.full((2, gguf.GGML_QUANT_SIZES[kind][1]), 7, np.uint8)
        writer.add_tensor(form, block, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_is_what_the_gguf_package_reads(valid: Path) -> None:
    ours, theirs = read_gguf(valid).metadata, gguf.GGUFReader(valid)
    assert set(ours) == {name for name in theirs.fields if not name.startswith("GGUF.")}
    for name, value in ours.items():
        expected = theirs.fields[name].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected
    assert ours["test.bool"] is True
    assert ours["test.no"] is False
    assert type(ours["test.uint64"]) is int
    assert ours["test.types"].dtype == np.int32
    assert ours["test.scores"].dtype == np.float32
    assert ours["test.flags"].dtype == np.bool_


def test_tensors_are_what_the_gguf_package_reads(valid: Path) -> None:
    ours, theirs = read_gguf(valid).tensors, gguf.GGUFReader(valid).tensors
    assert set(ours) == {each.name for each in theirs}
    for each in theirs:
        stored = ours[each.name]
        assert stored.form == each.tensor_type.name
        assert stored.shape == tuple(reversed(each.shape.tolist()))
        assert stored.data.tobytes() == each.data.tobytes()
        if each.tensor_type.name not in ("F64", "I32"):
            expected = gguf.quants.dequantize(each.data, each.tensor_type)
            np.testing.assert_array_equal(stored.dequantize(), expected)
    assert not ours["Q4_0"].data.flags.owndata


def test_version_2_and_another_alignment(tmp_path: Path) -> None:
    content = build((aligned(b"\x08\0\0\0"),), (tensor("t", (2,), F32, 8),), version=2)
    found = read(tmp_path, content).tensors["t"]
    assert (found.shape, found.dequantize().tolist()) == ((2,), [0, 0])


def test_bytes_after_the_tensors_and_gaps_are_no_harm(tmp_path: Path) -> None:
    found = read(tmp_path, build((), (tensor("b", offset=32), tensor("a")), bytes(999)))
    assert sorted(found.tensors) == ["a", "b"]


def test_a_file_without_tensors(tmp_path: Path) -> None:
    assert read(tmp_path, build((key("a"),), data=b"")).metadata == {"a": 1}


LIES: dict[str, tuple[bytes, str]] = {
    "no magic": (b"GGML" + bytes(60), "letters GGUF"),
    "only the magic": (b"GGUF", "the header ends beyond"),
    "cut in the counts": (build()[:20], "the header ends beyond"),
    "2^64 keys": (build(n_keys=LARGEST), "the header ends beyond"),
    "2^64 tensors": (build(n_tensors=LARGEST), "the header ends beyond"),
    "more keys than there are": (build((key("a"),), n_keys=3, data=b""), "the key '' is there twice"),
    "key longer than the file": (build((struct.pack("<Q", 1 << 40) + b"abc",)), "metadata has a string"),
    "key length 2^64": (build((struct.pack("<Q", LARGEST) + b"abc",)), "metadata has a string"),
    "key is not UTF-8": (build((key(b"\xff"),)), "metadata has a string that is not UTF-8"),
    "key twice": (build((key("a"), key("a"))), "the key 'a' is there twice"),
    "value type": (build((key("a", 13),)), "the key 'a' has a value of unknown type 13"),
    "value is not UTF-8": (build((key("a", STRING, text(b"\xff")),)), "'a' has a string that is not"),
    "string length 2^63": (build((key("a", STRING, struct.pack("<Q", 1 << 63)),)), "'a' has a string"),
    "array length 2^63": (build((key("a", ARRAY, array(U32, 1 << 63)),)), "the key 'a' ends beyond"),
    "array length 2^62": (build((key("a", ARRAY, array(U32, 1 << 62)),)), "the key 'a' ends beyond"),
    "array of 2^63 bytes": (build((key("a", ARRAY, array(0, 1 << 63)),)), "the key 'a' ends beyond"),
    "array of 2^63 strings": (build((key("a", ARRAY, array(STRING, 1 << 63)),)), "the key 'a' ends beyond"),
    "array type": (build((key("a", ARRAY, array(99, 1)),)), "the key 'a' is an array of unknown type 99"),
    "alignment 0": (build((aligned(bytes(4)),)), "alignment' must be a power of two"),
    "alignment 24": (build((aligned(b"\x18\0\0\0"),)), "must be a power of two, not 24"),
    "alignment text": (build((aligned(text("32"), STRING),)), "must be a power of two"),
    "alignment array": (build((aligned(array(U32, 0), ARRAY),)), "must be a power of two"),
    "no dimensions": (build((), (tensor("t", ()),)), "the tensor 't' has 0 dimensions"),
    "5 dimensions": (build((), (tensor("t", (1,) * 5),)), "the tensor 't' has 5 dimensions"),
    "2^32 dimensions": (
        build((), (text("t") + struct.pack("<I", (1 << 32) - 1) + bytes(32),)),
        "the tensor 't' has 4294967295 dimensions",
    ),
    "dimension 0": (build((), (tensor("t", (4, 0)),)), "the tensor 't' has a dimension of 0"),
    "product overflows to 0": (build((), (tensor("t", (1 << 32, 1 << 32)),)), "the tensor 't' of shape"),
    "product overflows to 4": (build((), (tensor("t", ((1 << 62) + 1, 4)),)), "the tensor 't' of shape"),
    "half a block": (build((), (tensor("t", (33,), Q8_0),)), "the tensor 't' has rows of 33 weights"),
    "offset past the end": (build((), (tensor("t", offset=1 << 40),)), "the tensor 't' .* ends beyond"),
    "offset wraps": (build((), (tensor("t", offset=LARGEST - 31),)), "the tensor 't' .* ends beyond"),
    "last byte missing": (build((), (tensor("t", (16,)),))[:-1], "the tensor 't' .* ends beyond"),
    "offset not aligned": (build((), (tensor("t", offset=4),)), "the tensor 't' begins at byte 4"),
    "overlap": (build((), (tensor("t", (9,)), tensor("u", offset=32))), "the tensor 'u' overlaps"),
    "same bytes": (build((), (tensor("t"), tensor("u"))), "the tensor 'u' overlaps"),
    "name twice": (build((), (tensor("t"), tensor("t", offset=32))), "the tensor 't' is there twice"),
    "tensor list cut": (build((), (tensor("t"),), n_tensors=2, data=b""), "ends beyond"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_by_name(lie: str, tmp_path: Path) -> None:
    content, sentence = LIES[lie]
    with pytest.raises(CorruptFile, match=sentence) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)


NOT_READ = {
    "version 1": (build(version=1), "version 1"),
    "version 4": (build(version=4), "version 4"),
    "big endian": (build(version=3 << 24), "big endian"),
    "Q2_K": (build((), (tensor("t", (256,), Q2_K),)), "the tensor 't' is stored as Q2_K"),
    "type 31": (build((), (tensor("t", (256,), 31),)), "the tensor 't' is stored as type 31"),
    "arrays in arrays": (
        build((key("a", ARRAY, array(ARRAY, 1, array(U32, 0))),)),
        "the key 'a' is an array of",
    ),
    "a part": (build((key("split.count", U32, b"\3\0\0\0"),)), "one of 3 parts"),
}


@pytest.mark.parametrize("what", NOT_READ)
def test_what_is_not_read_is_refused_by_name(what: str, tmp_path: Path) -> None:
    content, sentence = NOT_READ[what]
    with pytest.raises(UnsupportedModel, match=sentence):
        read(tmp_path, content)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere\.gguf is not a file"):
        read_gguf(tmp_path / "nowhere.gguf")


def test_every_truncation_is_noticed(valid: Path, tmp_path: Path) -> None:
    content = valid.read_bytes()
    ends = {each.data_offset + each.n_bytes for each in gguf.GGUFReader(valid).tensors}
    for length in range(0, max(ends), 7):
        with pytest.raises(CorruptFile):
            read(tmp_path, content[:length])


def test_work_and_memory_are_bounded_by_the_file(tmp_path: Path) -> None:
    """A million empty strings and many counts of 2^60: no more memory than a small multiple of the file."""
    strings = key("a", ARRAY, array(STRING, 1 << 17, bytes(8 << 17)))
    numbers = key("b", ARRAY, array(U32, 1 << 17, bytes(4 << 17)))
    liar = key("c", ARRAY, array(STRING, 1 << 60))
    path = tmp_path / "model.gguf"
    path.write_bytes(build((strings, numbers, liar)))
    tracemalloc.start()
    with pytest.raises(CorruptFile, match="the key 'c' ends beyond"):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size


def check_is_read_or_refused(path: Path) -> None:
    try:
        found = read_gguf(path)
    except NextwordError:
        return
    for stored in found.tensors.values():
        assert stored.nbytes <= path.stat().st_size


FUZZ = settings(max_examples=150, deadline=timedelta(seconds=2))


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    for content in (
        noise,
        b"GGUF\3\0\0\0" + noise,
        build((noise,), n_keys=1),
        build((), (noise,), n_tensors=1),
    ):
        path.write_bytes(content)
        check_is_read_or_refused(path)


NUMBERS = st.sampled_from([0, 1, 31, 32, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, LARGEST])


@FUZZ
@given(st.data())
def test_a_damaged_file_is_read_or_refused(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(valid.read_bytes())
    header = len(content) - 2500  # the list of tensors ends about here: most damage should be before it
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            content[at : at + 8] = struct.pack("<Q", data.draw(NUMBERS))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, header // 2]))])
    check_is_read_or_refused(path)
