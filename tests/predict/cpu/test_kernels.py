"""The vector operations and elementary functions that kernels are made of, against numpy; with and without the
instructions that only some processors have. The thread pool, and what it shares with the kernels."""

from __future__ import annotations

import importlib.util
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from llvmlite import ir

from nextword.predict.cpu import processor as this_machine
from nextword.predict.cpu.kernels.functions import exponential, gelu_exact, gelu_tanh, silu
from nextword.predict.cpu.kernels.parallel import call_workers, join_workers, parallel_for, run_thread_of
from nextword.predict.cpu.kernels.simd import (
    as_ints,
    floats_at,
    fp16_at,
    int8_at,
    kernel,
    lane_sum,
    lane_sum_int,
    long_at,
    put_bytes,
    put_floats,
    put_fp16,
    put_long,
    scatter_bytes,
    scatter_fp16,
    spliced,
)
from nextword.predict.cpu.kernels.structs import struct_reader
from nextword.predict.cpu.layout import X_BYTES, pack_struct
from nextword.predict.cpu.threads import Kernels, ThreadPool, new_counters

BEFORE_VNNI = {"avx2", "f16c"}
every_processor = pytest.mark.parametrize(
    "features",
    [
        None,
        pytest.param(
            BEFORE_VNNI, marks=pytest.mark.skipif(not this_machine.features() >= BEFORE_VNNI, reason="needs AVX2")
        ),
        set(),
    ],
    ids=["this one", "one of AVX2", "a plain one"],
)


@pytest.fixture
def processor(features: set[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels compiled in this test may use."""
    if features is not None:
        monkeypatch.setattr(this_machine, "features", lambda: features)


def _quads(q: np.ndarray) -> np.ndarray:
    """Integers [outputs, columns] in quads of columns: bytes [columns / 4, outputs, 4]."""
    return np.ascontiguousarray(q.astype(np.uint8).reshape(32, -1, 4).swapaxes(0, 1))


@pytest.fixture
def int_dot(processor: None) -> ModuleType:
    """The integer dot products, as they are compiled for the processor of the test.

    A module of the test's own: numba types an intrinsic once in a process, so a way that was chosen for one processor
    would be used for all others, too.
    """
    spec = importlib.util.find_spec("nextword.predict.cpu.kernels.int_dot")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_processor
@pytest.mark.parametrize("bits", [8, 4])
def test_products_of_a_group_are_exact(bits: int, int_dot: ModuleType) -> None:
    _check_products(bits, int_dot)


@pytest.mark.skipif("avx2" not in this_machine.features(), reason="needs AVX2")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("features", [None])
def test_products_of_a_widened_group_are_exact(bits: int, int_dot: ModuleType) -> None:
    _check_products(bits, int_dot, widened=True)


def _spelled_out(builder: Any, name: str, kind: Any, start: Any, a: Any, b: Any) -> Any:
    """What the instructions of VNNI and NEON do, in LLVM that any processor runs: four products of bytes and a sum.

    VNNI's first bytes are unsigned, all others signed.
    """
    assert name in ("llvm.x86.avx512.vpdpbusd.512", "llvm.aarch64.neon.sdot.v4i32.v16i8")
    assert start.type == kind
    lanes, word = kind.count, kind.element
    bytes_, words = ir.VectorType(ir.IntType(8), 4 * lanes), ir.VectorType(word, 4 * lanes)
    first, second = builder.bitcast(a, bytes_), builder.bitcast(b, bytes_)
    wide = builder.zext(first, words) if "vpdpbusd" in name else builder.sext(first, words)
    products = builder.mul(wide, builder.sext(second, words))
    for place in range(4):
        picks = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [4 * lane + place for lane in range(lanes)])
        start = builder.add(start, builder.shuffle_vector(products, products, picks))
    return start


@pytest.mark.parametrize(
    ("features", "instruction"),
    [({"avx512vnni"}, "llvm.x86.avx512.vpdpbusd.512"), ({"dotprod"}, "llvm.aarch64.neon.sdot.v4i32.v16i8")],
    ids=["VNNI", "NEON"],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_products_of_other_processors_are_exact(
    bits: int, instruction: str, int_dot: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their way of doing it, on any machine: only the one instruction is replaced by what it does."""
    called = set()

    def call(builder: Any, name: str, *operands: Any) -> Any:
        called.add(name)
        return _spelled_out(builder, name, *operands)

    monkeypatch.setattr(int_dot, "call", call)
    _check_products(bits, int_dot)
    assert called == {instruction}, "another processor's way was tested"


def _check_products(bits: int, int_dot: ModuleType, widened: bool = False) -> None:
    read, times = {
        (8, False): (int_dot.int8_group_at, int_dot.dot_int8),
        (4, False): (int_dot.int4_group_at, int_dot.dot_int4),
        (8, True): (int_dot.widened_int8_at, int_dot.dot_widened),
        (4, True): (int_dot.widened_int4_at, int_dot.dot_widened),
    }[bits, widened]
    put_integers = int_dot.put_integers
    random = np.random.default_rng(0)
    q, x = random.integers(0, 1 << bits, (32, 32)), random.integers(-32512, 32513, (4, 32))
    q[0] = (1 << bits) - 1  # sums as large as they get, of numbers and of their high and low bytes
    x[:3] = np.array([[32512], [-32512], [127 * 256 - 128]])
    quads = _quads(q) if bits == 8 else _quads(q[:, :16]) | _quads(q[:, 16:]) << 4

    @kernel
    def products(quads: int, n: int, x: int, out: int) -> None:
        numbers = as_ints(floats_at(n))
        put_integers(x, numbers)
        sums = times(read(quads), x, lane_sum_int(numbers))
        for byte in range(4):
            put_bytes(out + 32 * byte, sums >> (8 * byte))

    for row in x.astype(np.float32):
        out, activations = np.zeros((4, 32), np.uint8), np.zeros(X_BYTES, np.int8)
        products(quads.ctypes.data, row.ctypes.data, activations.ctypes.data, out.ctypes.data)
        found = np.ascontiguousarray(out.T).view(np.int32)[:, 0]
        assert np.array_equal(found, (q - (128 if bits == 8 else 0)) @ row.astype(np.int64))


@every_processor
@pytest.mark.usefixtures("processor")
def test_halves_are_read_and_written_as_numpy_does() -> None:
    every_half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every_half[np.isfinite(every_half)]
    read = np.zeros(len(finite), np.float32)

    @kernel
    def read_all(x: int, n: int, out: int) -> None:
        for at in range(0, n, 32):
            put_floats(out + 4 * at, fp16_at(x + 2 * at))

    read_all(finite.ctypes.data, len(finite), read.ctypes.data)
    assert np.array_equal(read.view(np.uint32), finite.astype(np.float32).view(np.uint32))

    @kernel
    def write_all(x: int, n: int, out: int, spread: int) -> None:
        for at in range(0, n, 32):
            put_fp16(out + 2 * at, floats_at(x + 4 * at))
            scatter_fp16(spread + 4 * at, 4, floats_at(x + 4 * at))

    random = np.random.default_rng(0)
    numbers = (random.normal(size=3200) * 10.0 ** random.integers(-6, 4, 3200)).astype(np.float32)
    numbers[:4] = 65504, -65504, 1e9, -1e9
    written, spread = np.zeros(3200, np.float16), np.zeros((3200, 2), np.float16)
    write_all(numbers.ctypes.data, len(numbers), written.ctypes.data, spread.ctypes.data)
    expected = np.clip(numbers, -65504, 65504).astype(np.float16)
    assert np.array_equal(written, expected)
    assert np.array_equal(spread[:, 0], expected)


@every_processor
@pytest.mark.usefixtures("processor")
def test_bytes_are_written_and_read_as_numbers() -> None:
    numbers = np.arange(-128, 128, dtype=np.float32)
    written, spread, read = np.zeros(256, np.int8), np.zeros((256, 3), np.int8), np.zeros(256, np.float32)

    @kernel
    def write_and_read(x: int, n: int, out: int, spread: int, back: int) -> None:
        for at in range(0, n, 32):
            put_bytes(out + at, as_ints(floats_at(x + 4 * at)))
            scatter_bytes(spread + 3 * at, 3, as_ints(floats_at(x + 4 * at)))
            put_floats(back + 4 * at, int8_at(out + at))

    places = [each.ctypes.data for each in (written, spread, read)]
    write_and_read(numbers.ctypes.data, len(numbers), *places)
    assert np.array_equal(written, numbers.astype(np.int8))
    assert np.array_equal(spread[:, 0], written)
    assert not spread[:, 1:].any()
    assert np.array_equal(read, numbers)


def _phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


@pytest.mark.parametrize(
    ("function", "exact", "error"),
    [
        (exponential, lambda x: math.exp(x), lambda x: 3e-7 * math.exp(x)),
        (silu, lambda x: x / (1 + math.exp(-x)), lambda x: 3e-7 * abs(x)),
        (gelu_exact, lambda x: x * _phi(x), lambda x: 5e-7 * abs(x)),
        (
            gelu_tanh,
            lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            lambda x: 5e-7 * abs(x),
        ),
    ],
)
def test_elementary_functions_are_as_near_as_they_say(
    function: Callable[..., object], exact: Callable[[float], float], error: Callable[[float], float]
) -> None:
    @kernel
    def apply(x: int, n: int, out: int) -> None:
        for at in range(0, n, 32):
            put_floats(out + 4 * at, function(floats_at(x + 4 * at)))

    x = np.linspace(-20, 20, 3200).astype(np.float32)
    out = np.zeros_like(x)
    apply(x.ctypes.data, len(x), out.ctypes.data)
    for given, found in zip(x.tolist(), out.tolist(), strict=True):
        assert abs(found - exact(given)) <= error(given) + 1e-12


class Marking(NamedTuple):
    """A pass of two phases over `size` int64 at `out`, to which they add 1 and 10."""

    counters: int
    n_threads: int
    out: int
    size: int


@pytest.fixture(scope="module")
def marking() -> Kernels:
    marking_at = struct_reader(Marking)

    @kernel
    def mark(first: int, last: int, out: int, amount: int) -> None:
        for item in range(first, last):
            put_long(out + 8 * item, long_at(out + 8 * item) + amount)

    @spliced
    def passes(thread: int, call: int) -> None:
        told = marking_at(call)
        phase = parallel_for(told.counters, 1, told.size, told.n_threads, mark, (told.out, 1))
        parallel_for(told.counters, phase, told.size, told.n_threads, mark, (told.out, 10))

    return Kernels(run_thread_of(passes), call_workers, join_workers)


def marked(pool: ThreadPool, size: int) -> np.ndarray:
    """What a pool makes of zeros, which no thread touches any more."""
    counters, out = new_counters(2), np.zeros(size, np.int64)
    call = pack_struct(Marking(counters.ctypes.data, pool.size, out.ctypes.data, size))
    pool.run(call.ctypes.data)
    counters[:] = call[:] = -1  # a thread that came too late would do anything
    return out


def test_items_are_done_once_whoever_does_them(marking: Kernels) -> None:
    """Also by workers that sleep or fall asleep: some passes follow at once, others after a pause."""
    pools = dict[int, ThreadPool]()
    sizes = [(4, 1000)] * 50 + [(n, size) for n in (1, 2, 3, 16) for size in range(70)]
    for number, (n_threads, size) in enumerate(sizes):
        pool = pools.setdefault(n_threads, ThreadPool(n_threads, marking))
        assert (marked(pool, size) == 11).all()
        if number % 7 == 0:
            time.sleep(random.Random(number).choice([0, 1e-4, 1e-3, 1e-2]))
    assert threading.active_count() >= 4


@pytest.mark.parametrize("name", ["call_workers", "run_thread"])
@pytest.mark.parametrize("after", [False, True])
def test_a_pool_goes_on_after_ctrl_c_wherever_it_comes(marking: Kernels, name: str, after: bool) -> None:
    """Before or after the workers are called, before or after the pass; also while they sleep."""

    def interrupted(*arguments: int) -> None:
        if after:
            getattr(marking, name)(*arguments)
        raise KeyboardInterrupt

    pool = ThreadPool(3, marking)
    for pause in (0, 0.02) * 5:
        assert (marked(pool, 40) == 11).all()
        time.sleep(pause)
        pool._kernels = marking._replace(**{name: interrupted})
        with pytest.raises(KeyboardInterrupt):
            marked(pool, 1000)
        pool._kernels = marking
        for size in range(40):
            assert (marked(pool, size) == 11).all()


class Inner(NamedTuple):
    first: int
    small: np.float32


class Outer(NamedTuple):
    yes: bool
    inner: Inner
    no: bool
    last: int


def test_a_struct_is_read_as_the_tuple_that_was_packed() -> None:
    outer_at = struct_reader(Outer)

    @kernel
    def read(at: int) -> Outer:
        return outer_at(at)

    given = Outer(True, Inner(-(1 << 40), np.float32(-0.1)), False, 1 << 62)
    table = pack_struct(given)
    assert read(table.ctypes.data) == given
    assert len(table) == 5


def test_sums_over_lanes_pair_the_same_lanes() -> None:
    @kernel
    def sum_of(x: int) -> float:
        return lane_sum(floats_at(x))

    x = np.random.default_rng(0).normal(size=32).astype(np.float32)
    folded = x
    while len(folded) > 1:
        folded = folded[: len(folded) // 2] + folded[len(folded) // 2 :]
    assert sum_of(x.ctypes.data) == folded[0]


def test_a_pool_that_is_let_go_ends_its_workers(marking: Kernels) -> None:
    before = threading.active_count()
    pool = ThreadPool(3, marking)
    marked(pool, 10)
    del pool
    patience = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_pool_is_still_there_when_the_process_ends_and_nothing_is_said() -> None:
    program = "import nextword; gpt = nextword.open('tales', device='cpu'); gpt.predict('Once')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
