"""The safetensors reader accepts what the `safetensors` library accepts, and never a pickle."""

from __future__ import annotations

import json
import struct
import tracemalloc
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nextword.errors import CorruptFile, ModelNotFound, NextwordError, UnsupportedModel
from nextword.parameters.safetensors import read_safetensors, read_sharded

LARGEST = (1 << 64) - 1


def entry(shape: str = "[2]", offsets: str = "[0,8]", dtype: str = "F32", more: str = "") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}{more}}}'


def build(header: str | bytes, data: bytes = bytes(8)) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def by_library(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """What the safetensors library reads, or None if it refuses."""
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in found}


def by_us(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = read_safetensors(path)
    return {name: (each.form, each.shape, each.data.tobytes()) for name, each in found.items()}


def test_what_the_library_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "f32": rng.normal(size=(3, 4)).astype(np.float32),
        "f16": rng.normal(size=5).astype(np.float16),
        "f64": rng.normal(size=(2, 1, 3)),
        "scalar": np.array(0.5, np.float32),
        "mask": np.tril(np.ones((3, 3), np.uint8)),
        "ids": np.arange(4),
        "flags": np.array([True, False]),
    }
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert by_us(path) == by_library(path.read_bytes())
    for name in ("f32", "f16", "f64", "scalar"):
        np.testing.assert_array_equal(found[name].dequantize(), arrays[name].astype(np.float32), strict=True)
    assert (found["mask"].form, found["ids"].form, found["flags"].form) == ("U8", "I64", "BOOL")
    with pytest.raises(UnsupportedModel, match="I64"):
        found["ids"].dequantize()


def test_bfloat16(tmp_path: Path) -> None:
    halves = np.array([1.5, -2.0, 3.0], np.float32).view(np.uint32) >> 16
    content = build(f'{{"a":{entry("[3]", "[0,6]", "BF16")}}}', halves.astype("<u2").tobytes())
    assert read_safetensors(write(tmp_path, content))["a"].dequantize().tolist() == [1.5, -2.0, 3.0]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# Each is read by both or refused by both.
HEADERS: dict[str, bytes] = {
    "plain": build(f'{{"a":{entry()}}}'),
    "two, out of order": build(f'{{"b":{entry("[1]", "[4,8]")},"a":{entry("[1]", "[0,4]")}}}'),
    "no tensors": build("{}", b""),
    "spaces around": build(f'  {{"a":{entry()}}}  \n'),
    "zero bytes after": build(f'{{"a":{entry()}}}\0'),
    "a zero dimension": build(f'{{"z":{entry("[0,4]", "[0,0]")},"a":{entry()}}}'),
    "an empty tensor at the end": build(f'{{"a":{entry()},"z":{entry("[0]", "[8,8]")}}}'),
    "an empty tensor inside another": build(f'{{"a":{entry()},"z":{entry("[0]", "[4,4]")}}}'),
    "an unknown field": build('{"a":' + entry(more=',"x":[1.5,null]') + "}"),
    "nested a little": build(f'{{"a":{entry()[:-1]},"x":{nested(9)}}}}}'),
    "nested a million times": build(f'{{"a":{nested(1_000_000)}}}'),
    "metadata": build(f'{{"__metadata__":{{"format":"pt"}},"a":{entry()}}}'),
    "null metadata": build(f'{{"__metadata__":null,"a":{entry()}}}'),
    "metadata of numbers": build(f'{{"__metadata__":{{"x":1}},"a":{entry()}}}'),
    "metadata twice": build(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{entry()}}}'),
    "a field twice": build('{"a":' + entry(more=',"dtype":"F32"') + "}"),
    "float size": build(f'{{"a":{entry("[2.0]")}}}'),
    "true size": build(f'{{"a":{entry("[true,2]")}}}'),
    "text size": build('{"a":' + entry('["2"]') + "}"),
    "negative size": build(f'{{"a":{entry("[-2]")}}}'),
    "minus zero": build(f'{{"a":{entry(offsets="[-0,8]")}}}'),
    "leading zero": build(f'{{"a":{entry("[02]")}}}'),
    "null shape": build(f'{{"a":{entry("null")}}}'),
    "size 2^64": build(f'{{"a":{entry("[0,18446744073709551616]", "[0,0]")}}}', b""),
    "a number of 5,000 digits": build(f'{{"a":{entry("[" + "9" * 5000 + "]")}}}'),
    "overflow to 2": build(f'{{"a":{entry("[9223372036854775809,2]")}}}'),
    "three offsets": build(f'{{"a":{entry(offsets="[0,8,8]")}}}'),
    "offsets backwards": build(f'{{"a":{entry(offsets="[8,0]")}}}'),
    "offsets past the end": build(f'{{"a":{entry("[3]", "[0,12]")}}}'),
    "a hole before": build(f'{{"a":{entry("[1]", "[4,8]")}}}'),
    "a hole between": build(f'{{"a":{entry("[1]", "[0,4]")},"b":{entry("[1]", "[8,12]")}}}', bytes(12)),
    "overlap": build(f'{{"a":{entry()},"b":{entry()}}}'),
    "too few bytes for the shape": build(f'{{"a":{entry("[3]")}}}'),
    "bytes left over": build(f'{{"a":{entry()}}}', bytes(9)),
    "a byte missing": build(f'{{"a":{entry()}}}', bytes(7)),
    "unknown dtype": build(f'{{"a":{entry(dtype="Q8_0")}}}'),
    "no dtype": build('{"a":{"shape":[2],"data_offsets":[0,8]}}'),
    "an entry that is a number": build('{"a":1}'),
    "an escaped name": build(f'{{"\\ud83d\\ude00\\u0000":{entry()}}}'),
    "half a surrogate pair": build(f'{{"\\ud83d":{entry()}}}'),
    "a control character": build(f'{{"\x01":{entry()}}}'),
    "byte order mark": build(b"\xef\xbb\xbf{}", b""),
    "not UTF-8": build(f'{{"a":{entry()}}}'.replace("a", "\xff", 1).encode("latin1")),
    "NaN": build('{"a":{"x":NaN,' + entry()[1:] + "}"),
    "a list": build("[]", b""),
    "not JSON": build("{'a':1}", b""),
    "empty header": build("", b""),
    "only a length": bytes(7),
    "header longer than the file": struct.pack("<Q", 99) + b"{}",
    "header of 2^64 bytes": struct.pack("<Q", LARGEST) + b"{}",
    "header of 100 MB": struct.pack("<Q", 100_000_001) + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_the_library_decides(case: str, tmp_path: Path) -> None:
    content = HEADERS[case]
    path, expected = write(tmp_path, content), by_library(content)
    if expected is not None:
        assert by_us(path) == expected
        return
    with pytest.raises((CorruptFile, UnsupportedModel)) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (build(f'{{"a":{entry()},"a":{entry()}}}'), CorruptFile, "'a' is there twice"),
        (build(f'{{"a":{entry("[16]", dtype="F4")}}}'), UnsupportedModel, "dtype 'F4' of 'a'"),
        (build(f'{{"a":{entry(f"[0,{LARGEST}]", "[0,0]")}}}', b""), CorruptFile, "no memory can hold"),
        (build(f'{{"a":{entry(str([1] * 65 + [2]))}}}'), CorruptFile, "no memory can hold"),
    ],
)
def test_where_we_are_stricter(content: bytes, error: type[Exception], sentence: str, tmp_path: Path) -> None:
    assert by_library(content) is not None
    with pytest.raises(error, match=sentence):
        read_safetensors(write(tmp_path, content))


def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, struct.pack("<Q", 99_000_000) + b'{"a":' + b" " * 100_000)
    tracemalloc.start()
    with pytest.raises(CorruptFile, match="claims 99000000 bytes"):
        read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# folders


def shard(folder: Path, name: str, **arrays: float) -> None:
    save_file({each: np.array([value], np.float32) for each, value in arrays.items()}, folder / name)


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_one_file(tmp_path: Path) -> None:
    shard(tmp_path, "model.safetensors", a=1)
    assert read_sharded(tmp_path)["a"].dequantize().tolist() == [1]


def test_shards(tmp_path: Path) -> None:
    shard(tmp_path, "one.safetensors", a=1, b=2)
    shard(tmp_path, "two.safetensors", c=3)
    index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    found = read_sharded(tmp_path)
    assert {name: each.dequantize().item() for name, each in found.items()} == {"a": 1, "b": 2, "c": 3}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path, "one.safetensors", a=1)
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(ModelNotFound, match=r"lacks the shard two\.safetensors"):
        read_sharded(tmp_path)


def test_a_tensor_missing_from_its_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path, "one.safetensors", a=1)
    index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"})
    with pytest.raises(CorruptFile, match=r"'b' is not in one\.safetensors"):
        read_sharded(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    shard(tmp_path, "one.safetensors", a=1)
    shard(tmp_path, "two.safetensors", a=1, b=2)
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(CorruptFile, match=r"'a' is in two\.safetensors"):
        read_sharded(tmp_path)


def test_a_tensor_listed_twice(tmp_path: Path) -> None:
    text = '{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CorruptFile, match="'a' is there twice"):
        read_sharded(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\0b", "..\\x", "C:x"]
)
def test_an_index_reads_only_its_own_folder(name: str, tmp_path: Path) -> None:
    index(tmp_path, {"a": name})
    with pytest.raises((CorruptFile, ModelNotFound), match=r"not the name of a file|lacks the shard"):
        read_sharded(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "x"])
def test_an_index_without_a_map(weight_map: object, tmp_path: Path) -> None:
    index(tmp_path, weight_map)
    with pytest.raises(CorruptFile, match="weight_map"):
        read_sharded(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.ckpt"])
def test_a_pickle_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsupportedModel, match=rf"{name}.*never does.*safe_serialization=True"):
        read_sharded(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model\.safetensors"):
        read_sharded(tmp_path)


# damage

FUZZ = settings(max_examples=200, deadline=timedelta(seconds=2))
VALID = build(
    '{"__metadata__":{"format":"pt"},"a":' + entry() + ',"b.c":' + entry("[2,3]", "[8,20]", "BF16") + "}",
    bytes(20),
)


def check_against_the_library(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = by_us(path)
    except UnsupportedModel:
        return
    except NextwordError:
        assert by_library(content) is None
        return
    assert found == by_library(content)


@FUZZ
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    for content in (noise, build(noise), build(b'{"a":' + noise + b"}")):
        check_against_the_library(path, content)


@FUZZ
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.one_of(st.sampled_from(b'0123456789-[]{},:." eE\\'), st.integers(0, 255)))
    length = data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2, 7]))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    check_against_the_library(path, bytes(content[:length]))
