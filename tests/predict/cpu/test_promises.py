"""What the CPU's engine promises of whole texts and whole processes: the same greedy words, Ctrl-C, little memory, and
any processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import nextword
from nextword.api import CALIBRATION_TEXT
from nextword.predict.torch_engine import TorchEngine

Folder = Callable[[str], Path]
BEGINNINGS = "Once The My In A He She Nobody Water Dear It There When Where If Never All Two Birds Night".split()
TOKENS = 64


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait by spinning, for ever where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_greedy_words_are_the_definitions_wherever_rounding_cannot_decide() -> None:
    """20 texts. The bundled model is stored in 8 bits; what is rounded are the vectors between its matrices.

    How far that moves a difference of two logits is stated by another text, the calibration text.
    """
    gpt = nextword.open("tales", device="cpu")
    definition = TorchEngine(gpt.architecture, gpt._stored.tensors)
    known = gpt.encode(CALIBRATION_TEXT)
    change = gpt.engine.open_session().feed_all(known) - definition.open_session().feed_all(known)
    stated = np.ptp(change, axis=1).max()
    clear = 0
    for beginning in BEGINNINGS:
        ids = gpt.tokenizer.encode_prompt(beginning)
        session = gpt.engine.open_session()
        logits, text = session.feed(ids), list[int]()
        for _ in range(TOKENS):
            text.append(int(logits.argmax()))
            logits = session.feed(text[-1:])
        exact = definition.open_session().feed_all([*ids, *text])[len(ids) - 1 : -1]
        second, first = np.sort(exact, axis=1)[:, -2:].T
        sure = first - second > stated
        assert np.array_equal(exact.argmax(1)[sure], np.array(text)[sure]), beginning
        clear += int(sure.sum())
    assert clear >= 0.97 * len(BEGINNINGS) * TOKENS, "else little was tested"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_ctrl_c_stops_within_one_token() -> None:
    """Tokens are stamped with a clock that processes share."""
    program = (
        "import sys, time, nextword\n"
        "gpt = nextword.open('tales', device='cpu')\n"
        "while True:\n"
        "    for step in gpt.generate('Once upon a time', max_tokens=400):\n"
        "        print(time.monotonic_ns(), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        sent = time.monotonic_ns()
        after, errors = process.communicate()
    assert "KeyboardInterrupt" in errors
    assert sum(int(stamp) > sent for stamp in after.split()) <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_packed_weights_and_the_text() -> None:
    """Beyond what a process with the smallest model takes, and at most a fifth more: 130 MB of 8 bits, 1,000 tokens."""
    program = """
import re
from pathlib import Path
import numpy as np
from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.engine import CpuEngine, warm_up
from nextword.predict.cpu.packed import pack

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

warm_up()
before = resident()
a = Architecture(vocab=8192, context=1024, width=1024, n_layers=9, n_heads=16, n_kv_heads=16, head_size=64,
                 norm=RMSNorm(1e-5), position=Rotary(1e4), mlp=SwiGLU(2816), tied=True)
packed = {}
for name, shape in tensor_shapes(a).items():
    if len(shape) == 1:
        tensor = StoredTensor.of(np.ones(shape, np.float32))
    else:
        blocks = np.zeros((shape[0], shape[1] // 32, 34), np.uint8)
        blocks[..., 2:] = 1
        tensor = StoredTensor("Q8_0", shape, blocks.reshape(shape[0], -1))
    packed |= pack({name: tensor})
engine = CpuEngine(a, packed)
session = engine.open_session()
session.feed([1] * 1000)
needed = sum(tensor.data.nbytes for tensor in packed.values()) + session.memory.nbytes
print((resident() - before) / needed, needed)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    share, needed = map(float, done.stdout.split())
    assert needed > 1e8
    assert 0.9 < share < 1.2


def test_a_plain_processor_computes_the_same_up_to_rounding(tiny_folder: Folder, tmp_path: Path) -> None:
    """Without any instruction that only some processors have. Slow (20 s): all kernels are compiled for it.

    The compiler optimizes less than usual, which halves the time and changes no operation.
    """
    program = (
        "import sys, numpy, nextword\n"
        "from nextword.predict.cpu.processor import features\n"
        "if sys.argv[3] == 'plain': assert features() == set()\n"
        "engines = [nextword.open(sys.argv[1], device='cpu', weights=form).engine\n"
        "           for form in ('fp32', 'bf16', 'int8', 'int4')]\n"
        "logits = [engine.open_session().feed_all(range(1, 30)) for engine in engines]\n"
        "numpy.save(sys.argv[2], numpy.stack(logits))\n"
    )
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_OPT": "0",
        "NEXTWORD_CACHE": str(tmp_path / "cache"),
    }
    found = []
    for name, environment in (("usual", {}), ("plain", plain)):
        file = tmp_path / f"{name}.npy"
        words = [sys.executable, "-c", program, str(tiny_folder("llama")), str(file), name]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr
        found.append(np.load(file))
    assert np.abs(found[0] - found[1]).max() <= 1e-4 * np.abs(found[0]).max()
