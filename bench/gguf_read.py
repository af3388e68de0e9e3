"""Reading the real SmolLM2-135M-Instruct (Q4_1 GGUF): at what speed, and are the numbers ggml's?

    python bench/gguf_read.py          (needs the extra: pip install '.[test]')

Referee: `gguf.GGUFReader` and `gguf.quants.dequantize` of the gguf package, on the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gguf
import numpy as np

from nextword.parameters.gguf import read_gguf
from nextword.parameters.pull import pull

ROUNDS = 5


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    path = pull("smollm2")
    tensors = read_gguf(path).tensors
    referee = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert tensors.keys() == referee.keys()

    def dequantize() -> None:
        for tensor in tensors.values():
            tensor.dequantize()

    def dequantize_as_gguf() -> None:
        for tensor in referee.values():
            gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    weights = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    difference = max(
        float(np.abs(tensor.dequantize() - gguf.quants.dequantize(referee[name].data, referee[name].tensor_type)).max())
        for name, tensor in tensors.items()
    )
    print(f"open                     {best(lambda: read_gguf(path)) * 1e3:.0f} ms")
    print(f"open, gguf package       {best(lambda: gguf.GGUFReader(path)) * 1e3:.0f} ms")
    for name, seconds in (("", best(dequantize)), (", gguf package", best(dequantize_as_gguf))):
        print(f"{'dequantize' + name:<24} {seconds:.2f} s, {weights * 4 / seconds / 1e9:.1f} GB/s of float32")
    print(f"weights                  {weights:,}")
    print(f"max abs difference       {difference}")


if __name__ == "__main__":
    main()
