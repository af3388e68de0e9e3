"""The bits of logits, to compare processors by: VNNI, AVX2, NEON and plain arithmetic should print the same digests.

    python bench/same_bits.py [--threads 2]

Two small models of different families with weights and texts that are made of whole numbers, so that they are the same
everywhere; each form of weights, and of keys and values. Printed is what of the processor is used, and a digest of the
logits of 390 positions, read in one go and, for the last 90, one by one; they must be the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import platform

import numpy as np

from nextword.model.architecture import Architecture, Biases, Gelu, LayerNorm, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.engine import CpuEngine
from nextword.predict.cpu.packed import pack
from nextword.predict.cpu.processor import features
from nextword.predict.engine import KV_CACHES, WEIGHTS

LENGTH, ONE_BY_ONE = 390, 90
LLAMA = Architecture(
    vocab=70,
    context=400,
    width=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_size=20,
    norm=RMSNorm(1e-5),
    position=Rotary(1e4),
    mlp=SwiGLU(96),
    qk_norm=True,
    windows=(None, 150),
)
NEOX = Architecture(
    vocab=70,
    context=400,
    width=80,
    n_layers=2,
    n_heads=4,
    n_kv_heads=4,
    head_size=20,
    norm=LayerNorm(1e-5),
    position=Rotary(1e4, fraction=0.5),
    mlp=Gelu(160, "none"),
    residual="parallel",
    biases=Biases(True, True, True),
)
MODELS = {"rotary, RMSNorm, SwiGLU, window": LLAMA, "partly rotary, LayerNorm, GELU, parallel": NEOX}


def weights_of(architecture: Architecture) -> dict[str, StoredTensor]:
    """Thousandths from -0.25 to 0.25; norms from 0.75 to 1.25."""
    random = np.random.default_rng(0)
    return {
        name: StoredTensor.of(
            (random.integers(-250, 251, shape) / 1000 + ("norm" in name and name.endswith("weight"))).astype(np.float32)
        )
        for name, shape in tensor_shapes(architecture).items()
    }


def digest(engine: CpuEngine, ids: list[int]) -> str:
    """Of all logits. Raises SystemExit if they are not the same in other pieces."""
    whole, session = engine.open_session().feed_all(ids), engine.open_session()
    first = session.feed_all(ids[:-ONE_BY_ONE])
    in_pieces = np.concatenate([first, *(session.feed_all([each]) for each in ids[-ONE_BY_ONE:])])
    if not np.array_equal(whole, in_pieces):
        raise SystemExit("A text read in pieces gave other logits than read at once.")
    return hashlib.sha256(whole.astype("<f4").tobytes()).hexdigest()[:16]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    used = sorted(features() & {"avx2", "f16c", "avx512f", "avx512vnni", "dotprod"})
    print(f"{platform.machine()}: {', '.join(used) or 'plain arithmetic'}\n\n| model | weights | cache | logits |")
    print("| --- | --- | --- | --- |")
    for name, architecture in MODELS.items():
        tensors = weights_of(architecture)
        ids = np.random.default_rng(1).integers(0, architecture.vocab, LENGTH).tolist()
        for form in WEIGHTS[1:]:
            packed = pack(tensors, form)
            for cache in KV_CACHES[1:]:
                engine = CpuEngine(architecture, packed, threads=given.threads, kv_cache=cache)
                print(f"| {name} | {form} | {cache} | {digest(engine, ids)} |", flush=True)


if __name__ == "__main__":
    main()
