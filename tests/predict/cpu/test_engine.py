"""Law 4 (the kernels are the definition) and law 5 (bit for bit, whatever the company) for every family and form."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nextword.errors import ContextOverflow, CorruptFile, UnknownToken
from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.model.kv_cache import KVCache
from nextword.parameters.open import open_stored
from nextword.parameters.stored import StoredTensor
from nextword.predict import torch_engine
from nextword.predict.cpu.engine import CpuEngine
from nextword.predict.cpu.packed import pack, unpack
from nextword.predict.engine import WEIGHTS, KvCache, Weights
from nextword.predict.torch_engine import TorchEngine
from tests import tiny

Folder = Callable[[str], Path]
every_variant = pytest.mark.parametrize("variant", tiny.VARIANTS)
every_form = pytest.mark.parametrize("weights", WEIGHTS)
LENGTH = 40
WINDOWED = Architecture(
    vocab=70,
    context=400,
    width=40,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_size=20,
    norm=RMSNorm(1e-5),
    position=Rotary(1e4),
    mlp=SwiGLU(50),
    windows=(None, 150),
)


def ids(seed: int = 0, length: int = LENGTH, vocab: int = tiny.VOCAB) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, length).tolist()


def engine(
    folder: Path, weights: Weights = "auto", threads: int | None = None, kv_cache: KvCache = "auto"
) -> CpuEngine:
    stored = open_stored(folder)
    return CpuEngine(stored.architecture, pack(stored.tensors, weights), threads=threads, kv_cache=kv_cache)


class HalfCache(KVCache):
    """The definition's memory, of keys and values in float16."""

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().append(layer, key.half().float(), value.half().float())


class ByteCache(KVCache):
    """The same of bytes: each key or value has the scale that makes its largest number 127."""

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scales = [each.abs().amax(-1, keepdim=True) / 127 for each in (key, value)]
        rounded = [torch.round(each / scale) * scale for each, scale in zip((key, value), scales, strict=True)]
        return super().append(layer, *rounded)


def random_weights(a: Architecture) -> dict[str, StoredTensor]:
    random = np.random.default_rng(0)
    drawn = {
        name: random.normal(size=shape) * 0.15 + (0.7 if len(shape) == 1 else 0)
        for name, shape in tensor_shapes(a).items()
    }
    return {name: StoredTensor.of(values.astype(np.float32)) for name, values in drawn.items()}


@every_variant
@every_form
def test_law_4_the_kernels_are_the_definition(variant: str, weights: Weights, tiny_folder: Folder) -> None:
    stored = open_stored(tiny_folder(variant))
    packed = pack(stored.tensors, weights)
    same = {name: StoredTensor.of(unpack(tensor)) for name, tensor in packed.items()}
    expected = TorchEngine(stored.architecture, same).open_session().feed_all(ids())
    found = CpuEngine(stored.architecture, packed).open_session().feed_all(ids())
    difference = np.abs(found - expected).max()
    assert difference <= (1e-4 if weights in ("auto", "fp32") else 1e-3 * np.abs(expected).max())


@every_variant
@pytest.mark.parametrize("form", [("fp32", "auto"), ("int8", "auto"), ("int4", "auto"), ("int8", "int8")])
def test_law_5_cuts_threads_and_company_change_no_bit(
    variant: str, form: tuple[Weights, KvCache], tiny_folder: Folder
) -> None:
    folder, (weights, kv_cache) = tiny_folder(variant), form
    reader = engine(folder, weights, kv_cache=kv_cache)
    whole = reader.open_session().feed_all(ids())
    for cuts in ([17, 23], [1] * LENGTH, [30, 1, 1, 8]):
        session, at, logits = reader.open_session(), 0, []
        for cut in cuts:
            logits.append(session.feed_all(ids()[at : at + cut]))
            at += cut
        assert np.array_equal(np.concatenate(logits), whole)
    for threads in (1, 3):
        assert np.array_equal(engine(folder, weights, threads, kv_cache).open_session().feed_all(ids()), whole)
    sessions = [reader.open_session() for _ in range(5)]
    for number, session in enumerate(sessions):
        session.feed(ids(number)[: 3 * number + 1])
    pieces = [[7], ids(7)[:30], [9, 1, 2], [10], ids(8)[:25]]
    together = reader.feed_each(sessions, pieces)
    for number, logits_of_one in enumerate(together):
        alone = reader.open_session()
        alone.feed(ids(number)[: 3 * number + 1])
        assert np.array_equal(alone.feed(pieces[number]), logits_of_one)
        assert alone.ids == sessions[number].ids


@pytest.mark.parametrize("kv_cache", ["fp32", "fp16", "int8"])
def test_what_is_copied_is_as_if_read(kv_cache: KvCache) -> None:
    reader = CpuEngine(WINDOWED, pack(random_weights(WINDOWED)), kv_cache=kv_cache)
    read, copied = reader.open_session(), reader.open_session()
    text = [number % WINDOWED.vocab for number in range(3, 43)]
    read.feed(text)
    copied.feed([1] * 45)
    for length in (0, 1, 31, 32, 37):
        copied.copy_from(read, length)
        assert copied.ids == text[:length]
        assert np.array_equal(copied.feed(text[length:]), reader.open_session().feed(text))


@every_variant
def test_keys_and_values_of_bytes_are_the_definitions_rounded(
    variant: str, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernels compute a little differently may be rounded to the next byte, hence not to 1e-4."""
    stored = open_stored(tiny_folder(variant))
    monkeypatch.setattr(torch_engine, "KVCache", ByteCache)
    expected = TorchEngine(stored.architecture, stored.tensors).open_session().feed_all(ids())
    found = CpuEngine(stored.architecture, pack(stored.tensors, "fp32"), kv_cache="int8").open_session().feed_all(ids())
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("kv_cache", "memory"), [("fp16", HalfCache), ("int8", ByteCache)])
def test_keys_and_values_in_less_room_are_nearly_the_same(
    kv_cache: KvCache, memory: type[KVCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across splits and windows: as the definition with the same rounding, and near to it without."""
    tensors, text = random_weights(WINDOWED), ids(0, 390, WINDOWED.vocab)
    packed = pack(tensors, "fp32")
    exact, reader = (CpuEngine(WINDOWED, packed, kv_cache=each) for each in ("fp32", kv_cache))
    expected, found = exact.open_session().feed_all(text), reader.open_session().feed_all(text)
    assert np.abs(found - expected).max() <= {"fp16": 1e-3, "int8": 2e-2}[kv_cache] * np.abs(expected).max()
    monkeypatch.setattr(torch_engine, "KVCache", memory)
    rounded = TorchEngine(WINDOWED, tensors).open_session().feed_all(text)
    assert np.abs(found - rounded).max() <= 1e-3 * np.abs(rounded).max()
    session = reader.open_session()
    session.feed(text[:300])
    assert np.array_equal(np.stack([session.feed([each]) for each in text[300:]]), found[300:])


def test_keys_and_values_of_bytes_take_half_the_room() -> None:
    packed = pack(random_weights(WINDOWED), "int8")
    half, bytes_ = (
        CpuEngine(WINDOWED, packed, kv_cache=each).open_session().memory.nbytes for each in ("auto", "int8")
    )
    assert bytes_ <= half * (0.5 + 4 / (2 * 32))  # heads of 20 lie in vectors of 32; a scale each, of 4 bytes


def test_what_was_forgotten_leaves_no_trace(tiny_folder: Folder) -> None:
    session = engine(tiny_folder("llama")).open_session()
    expected = session.feed_all(ids())
    session.truncate(10)
    session.feed(ids(1, 20))
    session.truncate(10)
    assert np.array_equal(session.feed_all(ids()[10:]), expected[10:])
    assert session.ids == ids()


@every_form
def test_long_texts_and_windows_cross_the_splits_of_attention(weights: Weights) -> None:
    packed = pack(random_weights(WINDOWED), weights)
    text = ids(0, 390, WINDOWED.vocab)
    same = {name: StoredTensor.of(unpack(tensor)) for name, tensor in packed.items()}
    expected = TorchEngine(WINDOWED, same).open_session().feed_all(text)
    reader = CpuEngine(WINDOWED, packed)
    found = reader.open_session().feed_all(text)
    assert np.abs(found - expected).max() <= (1e-4 if weights in ("auto", "fp32") else 1e-3 * np.abs(expected).max())
    session = reader.open_session()
    session.feed(text[:300])
    assert np.array_equal(np.stack([session.feed([each]) for each in text[300:]]), found[300:])


def test_texts_of_different_threads_do_not_mix(tiny_folder: Folder) -> None:
    reader = engine(tiny_folder("llama"))
    expected = [reader.open_session().feed_all(ids(number)) for number in range(4)]
    found: dict[int, bool] = {}

    def read(number: int) -> None:
        session = reader.open_session()
        logits = np.stack([session.feed([each]) for each in ids(number)])
        found[number] = np.array_equal(logits, expected[number])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_nothing_is_read_of_what_cannot_be(tiny_folder: Folder) -> None:
    reader = engine(tiny_folder("llama"))
    session, full = reader.open_session(8), reader.open_session(3)
    session.feed([1, 2])
    full.feed([1, 2, 3])
    with pytest.raises(ContextOverflow):
        session.feed([1] * 7)
    with pytest.raises(UnknownToken):
        session.feed([tiny.VOCAB])
    with pytest.raises(ContextOverflow):
        reader.feed_each([session, full], [[1], [1]])
    assert session.ids == [1, 2]


@pytest.mark.parametrize("weights", ["auto", "bf16", "int8", "int4"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blocks.1.mlp.up.weight", "norm.weight"])
def test_a_weight_that_is_no_number_is_reported_by_name(weights: Weights, wrong: float, name: str) -> None:
    tensors = random_weights(WINDOWED)
    values = tensors[name].dequantize()
    values.flat[3] = wrong
    with pytest.raises(CorruptFile, match=name):
        pack({**tensors, name: StoredTensor.of(values)}, weights)


def test_generating_on_a_cpu_does_not_import_torch(tiny_folder: Folder) -> None:
    program = (
        "import sys, nextword\n"
        f"gpt = nextword.open({str(tiny_folder('llama'))!r}, device='cpu')\n"
        "assert len(gpt.generate('The', max_tokens=4).finish().tokens)\n"
        "gpt.predict('The'); gpt.score('The cat')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
