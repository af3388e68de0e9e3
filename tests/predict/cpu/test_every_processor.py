"""What runs on this processor runs on each simpler one, with the same bits: kernels and `bench/same_bits.py`.

Each set of features is told to numba and LLVM before a process starts (`NUMBA_CPU_NAME`, `NUMBA_CPU_FEATURES`), so that
all that is compiled there is compiled for such a processor. What this machine does not have is skipped, and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextword.predict.cpu.processor import features

ROOT = Path(__file__).parents[3]
_AVX2 = {"sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
PROCESSORS: dict[str, set[str]] = {
    "AVX-512 with VNNI": _AVX512 | {"avx512vnni"},  # Cascade Lake and newer, Zen 4
    "AVX-512": _AVX512,  # Skylake-X
    "AVX2": _AVX2,  # Haswell, Zen
    "plain x86": set(),
    "NEON with dot products": {"neon", "dotprod"},
    "NEON": {"neon"},
}
_ARM = {"NEON with dot products", "NEON"}


def environment(processor: str, cache: Path) -> dict[str, str]:
    """What to start a process with, for it to compile for `processor`; skips the test if this machine is less."""
    is_x86 = "sse2" in features()
    if (processor in _ARM) == is_x86 or not features() >= PROCESSORS[processor]:
        pytest.skip(f"needs a processor with {processor}")
    told = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in sorted(PROCESSORS[processor])),
        "NEXTWORD_CACHE": str(cache),
    }
    return {**os.environ, **told}


def run(environment: dict[str, str], *words: str) -> str:
    """What a Python process prints in that environment."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("processor", PROCESSORS)
def test_kernels_are_right(processor: str, tmp_path: Path) -> None:
    told = environment(processor, tmp_path)
    used = run(told, "-c", "from nextword.predict.cpu.processor import features\nprint(*features())")
    assert set(used.split()) == PROCESSORS[processor]
    run(told, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/predict/cpu/test_kernels.py")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_logits_have_the_same_bits(processor: str, tmp_path: Path) -> None:
    """As those that were recorded, whatever the machine was. Slow (40 s): all kernels are compiled."""
    recorded = (ROOT / "bench" / "results" / "same_bits.md").read_text()
    rows = [line for line in recorded.splitlines() if line.startswith("| ")]
    found = run({**environment(processor, tmp_path), "PYTHONPATH": str(ROOT)}, "bench/same_bits.py")
    assert [line for line in found.splitlines() if line.startswith("| ")] == rows
