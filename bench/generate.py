"""Generating on a CPU, against llama.cpp and transformers: tokens/s, GB/s, fraction of the memory's bandwidth.

    python bench/generate.py [--against llama.cpp,transformers] [--rounds 7] [--threads 2] [--json]
    python bench/generate.py --shape 3B          random 4-bit weights of that shape, alone

(needs the extras: pip install '.[test,peers]'). SmolLM2-135M. Programs take turns within a round, so that whatever
else the machine does meets all of them; printed are medians over the rounds, and medians of the ratios of each
round. Every program gets the same number of threads. llama.cpp reads the same Q4_1 file, and a Q8_0 file written
from the same weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.parameters.export import export_gguf
from nextword.parameters.open import Stored, open_stored
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu.engine import CpuEngine
from nextword.predict.cpu.kernels.simd import broadcast_int, ints_at, kernel, lane_sum_int, long_at
from nextword.predict.cpu.packed import Packed
from nextword.predict.cpu.packed_file import load_packed
from nextword.predict.engine import KvCache

DECODED, PREFILLED, TEXTS = 24, 512, 8  # tokens a round
EARLY, LATE = 100, 1900  # positions of decoding
CONTEXT = 2048
SHAPES = {"1B": (16, 2048, 32, 8, 8192), "3B": (28, 3072, 24, 8, 8192), "8B": (32, 4096, 32, 8, 14336)}
Work = Callable[[], float]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@kernel
def read_all(table: int, n_pieces: int, times: int) -> int:
    """Read every byte of some pieces, `times` times; table: address of int64 [n_pieces, 2], addresses and sizes.

    Four places of a piece are read at a time: a single stream reaches less bandwidth.
    """
    a, b, c, d = broadcast_int(0), broadcast_int(0), broadcast_int(0), broadcast_int(0)
    for _ in range(times):
        for piece in range(n_pieces):
            first, quarter = long_at(table + 16 * piece), long_at(table + 16 * piece + 8) // 512 * 128
            for at in range(first, first + quarter, 128):
                a, b = a + ints_at(at), b + ints_at(at + quarter)
                c, d = c + ints_at(at + 2 * quarter), d + ints_at(at + 3 * quarter)
    return lane_sum_int(a + b + c + d)


class Bandwidth:
    """The bandwidth of this machine for reading some arrays, all threads at once, again and again like weights.

    For weights that partly stay in a cache this is more than the bandwidth of memory.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], threads: int) -> None:
        self._arrays = arrays
        self._bytes = sum(array.nbytes for array in arrays)
        self._times = max(1, round(5e8 / self._bytes))
        sizes = [array.nbytes // threads // 512 * 512 for array in arrays]
        self._tables = [
            np.array([(a.ctypes.data + size * thread, size) for a, size in zip(arrays, sizes, strict=True)], np.int64)
            for thread in range(threads)
        ]
        self.speed()

    def speed(self) -> float:
        """Bytes a second."""
        readers = [
            threading.Thread(target=read_all, args=(table.ctypes.data, len(table), self._times))
            for table in self._tables
        ]

        def all_at_once() -> None:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()

        return self._bytes * self._times / seconds(all_at_once)


def far_memory(threads: int) -> Bandwidth:
    """The bandwidth of memory that is in no cache."""
    return Bandwidth([np.ones(512 << 20, np.uint8)], threads)


class Ours:
    """nextword's CPU engine."""

    def __init__(
        self,
        architecture: Architecture,
        packed: Packed,
        threads: int,
        context: int = CONTEXT,
        kv_cache: KvCache = "auto",
    ) -> None:
        self.n_bytes = sum(tensor.data.nbytes for tensor in packed.values())
        self.weights = [tensor.data for tensor in packed.values()]
        self._engine = CpuEngine(architecture, packed, threads=threads, kv_cache=kv_cache)
        self._sessions = {place: self._engine.open_session(context) for place in (0, EARLY, LATE)}
        self._texts = [self._engine.open_session(EARLY + DECODED) for _ in range(TEXTS)]
        self._ids = np.random.default_rng(0).integers(0, architecture.vocab, context).tolist()

    def decode(self, position: int) -> float:
        """Tokens a second, from `position` on."""
        session = self._sessions[position]
        if not session.ids:
            session.feed(self._ids[:position])
        session.truncate(position)
        return DECODED / seconds(lambda: [session.feed([each]) for each in self._ids[:DECODED]])

    def prefill(self) -> float:
        """Tokens a second of a whole prompt."""
        self._sessions[0].truncate(0)
        return PREFILLED / seconds(lambda: self._sessions[0].feed(self._ids[:PREFILLED]))

    def batch(self) -> float:
        """Tokens a second of several texts together."""
        for text in self._texts:
            text.truncate(0)
            text.feed(self._ids[:16])
        ids = [[[each]] * TEXTS for each in self._ids[:DECODED]]
        return TEXTS * DECODED / seconds(lambda: [self._engine.feed_each(self._texts, each) for each in ids])


class LlamaCpp:
    """llama.cpp through its C interface: what is timed is llama_decode."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self._cpp = llama_cpp
        llama_cpp.llama_log_set(_silence(llama_cpp), None)
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        self._one, self._many = self._context(threads, 1), self._context(threads, TEXTS)
        self._ids = np.random.default_rng(0).integers(0, 40000, CONTEXT).tolist()

    def decode(self, position: int) -> float:
        """Tokens a second, from `position` on."""
        self._clear(self._one)
        for start in range(0, position, PREFILLED):
            self._read(self._one, self._ids[start : min(start + PREFILLED, position)])
        return DECODED / seconds(lambda: [self._read(self._one, [each]) for each in self._ids[:DECODED]])

    def prefill(self) -> float:
        """Tokens a second of a whole prompt."""
        self._clear(self._one)
        return PREFILLED / seconds(lambda: self._read(self._one, self._ids[:PREFILLED]))

    def batch(self) -> float:
        """Tokens a second of several texts together."""
        self._clear(self._many)
        batch = self._cpp.llama_batch_init(TEXTS, 0, 1)

        def read_one_each(id: int, position: int) -> None:
            batch.n_tokens = TEXTS
            for text in range(TEXTS):
                batch.token[text], batch.pos[text], batch.n_seq_id[text] = id, position, 1
                batch.seq_id[text][0], batch.logits[text] = text, 1
            assert self._cpp.llama_decode(self._many, batch) == 0

        for position in range(16):
            read_one_each(self._ids[position], position)
        places = range(16, 16 + DECODED)
        taken = seconds(lambda: [read_one_each(self._ids[place], place) for place in places])
        self._cpp.llama_batch_free(batch)
        return TEXTS * DECODED / taken

    def _context(self, threads: int, texts: int) -> Any:
        settings = self._cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = CONTEXT, PREFILLED, PREFILLED, texts
        settings.n_threads = settings.n_threads_batch = threads
        return self._cpp.llama_init_from_model(self._model, settings)

    def _clear(self, context: Any) -> None:
        self._cpp.llama_memory_clear(self._cpp.llama_get_memory(context), True)

    def _read(self, context: Any, ids: Sequence[int]) -> None:
        tokens = (self._cpp.llama_token * len(ids))(*ids)
        assert self._cpp.llama_decode(context, self._cpp.llama_batch_get_one(tokens, len(ids))) == 0


def _silence(cpp: Any) -> Any:
    callback = cpp.llama_log_callback(lambda level, text, data: None)
    LlamaCpp.callback = callback  # type: ignore[attr-defined]  # llama.cpp keeps only its address
    return callback


class Transformers:
    """transformers on torch, bfloat16."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self._ids = np.random.default_rng(0).integers(0, 40000, CONTEXT).tolist()

    def decode(self, position: int) -> float:
        """Tokens a second, from `position` on."""
        with self._torch.inference_mode():
            cache = self._model(self._torch.tensor([self._ids[:position]]), use_cache=True).past_key_values

            def read() -> None:
                for each in self._ids[:DECODED]:
                    self._model(self._torch.tensor([[each]]), past_key_values=cache, use_cache=True)

            return DECODED / seconds(read)


def compare(stored: Stored, against: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """All programs in turns; medians in tokens a second, and ratios."""
    works: dict[str, Work] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours: dict[str, Ours] = {}
        for form, name in (("auto", "4-bit"), ("int8", "int8")):
            packed = load_packed(stored.tensors, form, Path(folder) / f"{form}.safetensors")  # mapped, as everywhere
            ours[form] = Ours(stored.architecture, packed, threads)
            works[f"nextword {name} decode"] = lambda form=form: ours[form].decode(EARLY)
            works[f"nextword {name} decode late"] = lambda form=form: ours[form].decode(LATE)
            works[f"nextword {name} prefill"] = lambda form=form: ours[form].prefill()
            works[f"nextword {name} batch"] = lambda form=form: ours[form].batch()
            small = Ours(stored.architecture, packed, threads, kv_cache="int8")
            works[f"nextword {name} decode, int8 cache"] = lambda small=small: small.decode(EARLY)
            works[f"nextword {name} decode late, int8 cache"] = lambda small=small: small.decode(LATE)
        if "llama.cpp" in against:
            export_gguf(stored, Path(folder) / "q8.gguf", "Q8_0")
            files = {"Q4_1": stored.path, "Q8_0": Path(folder) / "q8.gguf"}
            peers = {name: LlamaCpp(file, threads) for name, file in files.items()}
            for name, peer in peers.items():
                works[f"llama.cpp {name} decode"] = lambda peer=peer: peer.decode(EARLY)
                works[f"llama.cpp {name} prefill"] = peer.prefill
                works[f"llama.cpp {name} batch"] = peer.batch
        if "transformers" in against:
            from nextword.parameters.export import export_hf

            export_hf(stored, Path(folder) / "hf")
            theirs = Transformers(Path(folder) / "hf", threads)
            works["transformers bf16 decode"] = lambda: theirs.decode(EARLY)
        works["memory"] = far_memory(threads).speed
        for form, name in (("auto", "4-bit"), ("int8", "int8")):
            works[f"memory, the {name} weights"] = Bandwidth(ours[form].weights, threads).speed
        for work in works.values():
            work()  # not counted: warms caches
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                taken[name].append(work())
    return {"medians": {name: statistics.median(each) for name, each in taken.items()}} | _ratios(taken, ours)


def _ratios(taken: dict[str, list[float]], ours: dict[str, Ours]) -> dict[str, Any]:
    def ratio(a: str, *others: str) -> float | None:
        if not all(other in taken for other in others):
            return None
        best = [max(each) for each in zip(*(taken[other] for other in others), strict=True)]
        return statistics.median(x / y for x, y in zip(taken[a], best, strict=True))

    sizes = {"4-bit": ours["auto"].n_bytes, "int8": ours["int8"].n_bytes}
    goals = {
        "decode int8 / llama.cpp Q8_0": (ratio("nextword int8 decode", "llama.cpp Q8_0 decode"), 2.0),
        "decode 4-bit / llama.cpp Q4_1": (ratio("nextword 4-bit decode", "llama.cpp Q4_1 decode"), 3.0),
        "decode 4-bit / transformers bf16": (ratio("nextword 4-bit decode", "transformers bf16 decode"), 8.0),
        "prefill / the better llama.cpp": (
            ratio("nextword int8 prefill", "llama.cpp Q4_1 prefill", "llama.cpp Q8_0 prefill"),
            1.5,
        ),
        "8 texts / the better llama.cpp": (
            ratio("nextword int8 batch", "llama.cpp Q4_1 batch", "llama.cpp Q8_0 batch"),
            1.5,
        ),
        "decode int8 at 1,900 / at 100": (ratio("nextword int8 decode late", "nextword int8 decode"), 0.7),
        "decode 4-bit at 1,900 / at 100": (ratio("nextword 4-bit decode late", "nextword 4-bit decode"), 0.7),
        **{
            f"decode {name} at 1,900 / at 100, --kv-cache int8": (
                ratio(f"nextword {name} decode late, int8 cache", f"nextword {name} decode, int8 cache"),
                None,
            )
            for name in sizes
        },
        "int8 share of memory's bandwidth": (_fraction(taken, "int8", sizes, "memory"), 0.85),
        "int8 share of reading the same bytes": (_fraction(taken, "int8", sizes, "memory, the int8 weights"), None),
        "4-bit share of memory's bandwidth": (_fraction(taken, "4-bit", sizes, "memory"), None),
        "4-bit share of reading the same bytes": (_fraction(taken, "4-bit", sizes, "memory, the 4-bit weights"), None),
    }
    return {
        "bytes": sizes,
        "ratios": {name: {"measured": value, "goal": goal} for name, (value, goal) in goals.items()},
    }


def _fraction(taken: dict[str, list[float]], name: str, sizes: dict[str, int], memory: str) -> float:
    pairs = zip(taken[f"nextword {name} decode"], taken[memory], strict=True)
    return statistics.median(speed * sizes[name] / memory for speed, memory in pairs)


def shape(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Decoding with random 4-bit weights of a large shape, packed into a file and mapped, as any model's are.

    The file is written to the folder of temporary files and removed.
    """
    layers, width, heads, kv_heads, hidden = SHAPES[name]
    architecture = Architecture(
        vocab=128256,
        context=1024,
        width=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_size=width // heads,
        norm=RMSNorm(1e-5),
        position=Rotary(5e5),
        mlp=SwiGLU(hidden),
        tied=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packed.safetensors"
        packed = load_packed(_random_tensors(architecture), "auto", file)
        ours = Ours(architecture, packed, threads, 256)
        ours.decode(EARLY)
        resident, on_disk = _resident(), file.stat().st_size
        far, same = far_memory(threads), Bandwidth(ours.weights, threads)
        speeds = [(ours.decode(EARLY) * ours.n_bytes, far.speed(), same.speed()) for _ in range(rounds)]
    return {
        "shape": name,
        "bytes": on_disk,
        "tokens_per_second": statistics.median(ours_read / ours.n_bytes for ours_read, _, _ in speeds),
        "memory_bytes_per_second": statistics.median(each[1] for each in speeds),
        "share_of_memory_bandwidth": statistics.median(each[0] / each[1] for each in speeds),
        "share_of_reading_the_same_bytes": statistics.median(each[0] / each[2] for each in speeds),
        "resident_bytes": resident,
        "resident_by_file": resident and resident / on_disk,
    }


def _random_tensors(architecture: Architecture) -> dict[str, StoredTensor]:
    """Q4_1 (scale, minimum, 32 weights of 4 bits); those of one shape share their bytes, so that all fit in memory."""
    random = np.random.default_rng(0)
    made: dict[tuple[int, ...], StoredTensor] = {}
    for size in tensor_shapes(architecture).values():
        if len(size) == 1:
            made[size] = StoredTensor.of(np.ones(size, np.float32))
        elif size not in made:
            data = random.integers(0, 256, (size[0], size[1] // 32, 20), dtype=np.uint8)
            data[..., :4] = np.array([0.002, -0.015], "<f2").view(np.uint8)
            made[size] = StoredTensor("Q4_1", size, data.reshape(size[0], -1))
    return {name: made[size] for name, size in tensor_shapes(architecture).items()}


def _resident() -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), None)


def main() -> None:
    """Print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="llama.cpp", help="llama.cpp, transformers, both with a comma, or none")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.shape:
        result = shape(given.shape, given.rounds, given.threads)
    else:
        result = compare(open_stored("smollm2"), given.against.split(","), given.rounds, given.threads)
    if given.json or given.shape:
        print(json.dumps(result, indent=None if given.json else 1))
        return
    print("| program | median |\n| --- | --- |")
    for name, value in result["medians"].items():
        print(
            f"| {name} | {value / 1e9:.1f} GB/s |"
            if name.startswith("memory")
            else f"| {name} | {value:,.0f} tokens/s |"
        )
    print("\n| ratio | measured | goal |\n| --- | --- | --- |")
    for name, each in result["ratios"].items():
        if each["measured"] is not None:
            print(f"| {name} | {each['measured']:.2f} | {each['goal'] or ''} |")


if __name__ == "__main__":
    main()
