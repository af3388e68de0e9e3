"""The vector operations and elementary functions that kernels are made of, against numpy; with and without the
instructions that only some processors have."""

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
from nextword.predict.cpu.kernels.parallel import call_helpers, dismiss, share, shared
from nextword.predict.cpu.kernels.simd import (
    as_ints,
    floats_at,
    halves_at,
    kernel,
    long_at,
    put_bytes,
    put_floats,
    put_halves,
    put_long,
    scatter_bytes,
    scatter_halves,
    signed_bytes_at,
    spliced,
    total,
    total_int,
)
from nextword.predict.cpu.kernels.structs import reader
from nextword.predict.cpu.layout import X_BYTES, record
from nextword.predict.cpu.threads import Kernels, Team, new_counters

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
def groups(processor: None) -> ModuleType:
    """The products, as they are compiled for the processor of the test.

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
def test_products_of_a_group_are_exact(bits: int, groups: ModuleType) -> None:
    _check_products(bits, groups)


@pytest.mark.skipif("avx2" not in this_machine.features(), reason="needs AVX2")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("features", [None])
def test_products_of_a_widened_group_are_exact(bits: int, groups: ModuleType) -> None:
    _check_products(bits, groups, widened=True)


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
    bits: int, instruction: str, groups: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their way of doing it, on any machine: only the one instruction is replaced by what it does."""
    called = set()

    def call(builder: Any, name: str, *operands: Any) -> Any:
        called.add(name)
        return _spelled_out(builder, name, *operands)

    monkeypatch.setattr(groups, "call", call)
    _check_products(bits, groups)
    assert called == {instruction}, "another processor's way was tested"


def _check_products(bits: int, groups: ModuleType, widened: bool = False) -> None:
    read, times = {
        (8, False): (groups.bytes_at, groups.times_bytes),
        (4, False): (groups.nibbles_at, groups.times_nibbles),
        (8, True): (groups.wide_bytes_at, groups.times_pairs),
        (4, True): (groups.wide_nibbles_at, groups.times_pairs),
    }[bits, widened]
    put_x = groups.put_x
    random = np.random.default_rng(0)
    q, x = random.integers(0, 1 << bits, (32, 32)), random.integers(-32512, 32513, (4, 32))
    q[0] = (1 << bits) - 1  # sums as large as they get, of numbers and of their high and low bytes
    x[:3] = np.array([[32512], [-32512], [127 * 256 - 128]])
    quads = _quads(q) if bits == 8 else _quads(q[:, :16]) | _quads(q[:, 16:]) << 4

    @kernel
    def products(quads: int, n: int, x: int, out: int) -> None:
        numbers = as_ints(floats_at(n))
        put_x(x, numbers)
        sums = times(read(quads), x, total_int(numbers))
        for byte in range(4):
            put_bytes(out + 32 * byte, sums >> (8 * byte))

    for row in x.astype(np.float32):
        out, room = np.zeros((4, 32), np.uint8), np.zeros(X_BYTES, np.int8)
        products(quads.ctypes.data, row.ctypes.data, room.ctypes.data, out.ctypes.data)
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
            put_floats(out + 4 * at, halves_at(x + 2 * at))

    read_all(finite.ctypes.data, len(finite), read.ctypes.data)
    assert np.array_equal(read.view(np.uint32), finite.astype(np.float32).view(np.uint32))

    @kernel
    def write_all(x: int, n: int, out: int, spread: int) -> None:
        for at in range(0, n, 32):
            put_halves(out + 2 * at, floats_at(x + 4 * at))
            scatter_halves(spread + 4 * at, 4, floats_at(x + 4 * at))

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
            put_floats(back + 4 * at, signed_bytes_at(out + at))

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
    """A pass of two stages over `size` int64 at `out`, to which they add 1 and 10."""

    counters: int
    n_threads: int
    out: int
    size: int


@pytest.fixture(scope="module")
def marking() -> Kernels:
    marking_at = reader(Marking)

    @kernel
    def mark(first: int, last: int, out: int, amount: int) -> None:
        for piece in range(first, last):
            put_long(out + 8 * piece, long_at(out + 8 * piece) + amount)

    @spliced
    def passes(thread: int, call: int) -> None:
        told = marking_at(call)
        stage = share(told.counters, 1, told.size, told.n_threads, mark, (told.out, 1))
        share(told.counters, stage, told.size, told.n_threads, mark, (told.out, 10))

    return Kernels(shared(passes), call_helpers, dismiss)


def marked(team: Team, size: int) -> np.ndarray:
    """What a team makes of zeros, which nobody touches any more."""
    counters, out = new_counters(2), np.zeros(size, np.int64)
    call = record(Marking(counters.ctypes.data, team.size, out.ctypes.data, size))
    team.run(call.ctypes.data)
    counters[:] = call[:] = -1  # who came too late would do anything
    return out


def test_pieces_are_done_once_whoever_does_them(marking: Kernels) -> None:
    """Also by helpers that sleep or fall asleep: some passes follow at once, others after a pause."""
    teams = dict[int, Team]()
    sizes = [(4, 1000)] * 50 + [(n, size) for n in (1, 2, 3, 16) for size in range(70)]
    for number, (n_threads, size) in enumerate(sizes):
        team = teams.setdefault(n_threads, Team(n_threads, marking))
        assert (marked(team, size) == 11).all()
        if number % 7 == 0:
            time.sleep(random.Random(number).choice([0, 1e-4, 1e-3, 1e-2]))
    assert threading.active_count() >= 4


@pytest.mark.parametrize("name", ["call_helpers", "take_part"])
@pytest.mark.parametrize("after", [False, True])
def test_a_team_goes_on_after_ctrl_c_wherever_it_comes(marking: Kernels, name: str, after: bool) -> None:
    """Before or after the helpers are called, before or after the pass; also while they sleep."""

    def interrupted(*arguments: int) -> None:
        if after:
            getattr(marking, name)(*arguments)
        raise KeyboardInterrupt

    team = Team(3, marking)
    for pause in (0, 0.02) * 5:
        assert (marked(team, 40) == 11).all()
        time.sleep(pause)
        team._kernels = marking._replace(**{name: interrupted})
        with pytest.raises(KeyboardInterrupt):
            marked(team, 1000)
        team._kernels = marking
        for size in range(40):
            assert (marked(team, size) == 11).all()


class Inner(NamedTuple):
    first: int
    small: np.float32


class Outer(NamedTuple):
    yes: bool
    inner: Inner
    no: bool
    last: int


def test_a_record_is_read_as_the_tuple_that_it_was_made_of() -> None:
    outer_at = reader(Outer)

    @kernel
    def read(at: int) -> Outer:
        return outer_at(at)

    given = Outer(True, Inner(-(1 << 40), np.float32(-0.1)), False, 1 << 62)
    table = record(given)
    assert read(table.ctypes.data) == given
    assert len(table) == 5


def test_sums_over_lanes_pair_the_same_lanes() -> None:
    @kernel
    def sum_of(x: int) -> float:
        return total(floats_at(x))

    x = np.random.default_rng(0).normal(size=32).astype(np.float32)
    folded = x
    while len(folded) > 1:
        folded = folded[: len(folded) // 2] + folded[len(folded) // 2 :]
    assert sum_of(x.ctypes.data) == folded[0]


def test_a_team_that_is_let_go_ends_its_helpers(marking: Kernels) -> None:
    before = threading.active_count()
    team = Team(3, marking)
    marked(team, 10)
    del team
    patience = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_team_is_still_there_when_the_process_ends_and_nothing_is_said() -> None:
    program = "import nextword; gpt = nextword.open('tales', device='cpu'); gpt.predict('Once')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
