"""Arrays of the kernels begin at a cache line; room that is not written costs no memory, however much there is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nextword.predict.cpu.memory import LINE, aligned, reserve

# 24 texts of 64 Ki tokens, 1.6 GB of keys and values, of which each uses a few tokens.
_ROWS = """
import os
import numpy as np
from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.engine import CpuEngine
from nextword.predict.cpu.packed import pack

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

long = Architecture(
    vocab=70, context=1 << 16, width=64, n_layers=2, n_heads=4, n_kv_heads=2, head_size=32,
    norm=RMSNorm(1e-5), position=Rotary(1e4), mlp=SwiGLU(50),
)
tensors = {n: StoredTensor.of(np.ones(shape, np.float32)) for n, shape in tensor_shapes(long).items()}
engine = CpuEngine(long, pack(tensors, "fp32"))
engine.open_session(100).feed([1])
before = resident()
sessions = [engine.open_session() for _ in range(24)]
engine.feed_each(sessions, [[1, 2, 3]] * 24)
print(sum(session.memory.nbytes for session in sessions), resident() - before)
"""


def test_it_is_zeros_as_many_as_asked_for() -> None:
    buffer = reserve(100_000)
    assert (buffer.dtype.name, buffer.shape) == ("uint8", (100_000,))
    assert not buffer.any()
    buffer[:] = 1
    assert buffer.flags.writeable


@pytest.mark.parametrize("shape", [(3,), (7, 32), (128, 49152)])
def test_it_begins_at_a_cache_line(shape: tuple[int, ...]) -> None:
    for buffer in (aligned(shape, np.float32), aligned(shape, np.int8), reserve(int(np.prod(shape)))):
        assert buffer.ctypes.data % LINE == 0
        assert not buffer.any()
    assert aligned(shape, np.float32).shape == shape


def test_too_much_is_a_memory_error() -> None:
    for n_bytes in (1 << 60, 1 << 72):
        with pytest.raises(MemoryError):
            reserve(n_bytes)


@pytest.mark.skipif(sys.platform != "linux", reason="what is resident is read from /proc")
def test_a_few_tokens_of_many_long_texts_take_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _ROWS], stdout=subprocess.PIPE, text=True, check=True)
    reserved, taken = map(int, done.stdout.split())
    assert reserved > 1e9
    assert taken < 50e6
