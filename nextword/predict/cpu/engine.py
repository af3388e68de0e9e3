"""The engine of CPUs: numba kernels over packed weights, no torch.

Reading in chunks, one token at a time, from a truncated memory or side by side with other texts gives the same
logits bit for bit, whatever the number of threads.

An engine does one pass at a time: calls from several threads wait for each other. A Session belongs to one thread
at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.errors import ContextOverflow
from nextword.model.architecture import (
    Architecture,
    Gelu,
    LayerNorm,
    Learned,
    RMSNorm,
    Rotary,
    SwiGLU,
    rotary_frequencies,
    tensor_shapes,
)
from nextword.parameters.stored import StoredTensor
from nextword.predict.cpu import layout as shapes
from nextword.predict.cpu.kernel_cache import compiled
from nextword.predict.cpu.layout import (
    FP16,
    FP32,
    GROUP_BYTES,
    INT4,
    INT4_WIDE,
    INT8,
    LANES,
    NUMBER_BYTES,
    SPAN,
    Call,
    Model,
    n_stages,
    record,
)
from nextword.predict.cpu.memory import reserve
from nextword.predict.cpu.packed import Packed, pack
from nextword.predict.cpu.scratch import Workroom, whole
from nextword.predict.cpu.threads import Team, new_counters
from nextword.predict.engine import KvCache, Logits, check_room

Bytes = npt.NDArray[np.uint8]
CHUNK = 128  # rows of a pass: what they need beside the weights stays in a core's cache
_MATRICES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
)
_NORMS = ("attention_norm", "mlp_norm", "attention.query_norm", "attention.key_norm")
_MOST_THREADS = 16
_KV_FORMS = {"fp32": FP32, "fp16": FP16, "int8": INT8}
_NO_WINDOW = 1 << 40


class CpuEngine:
    """A model whose weights are packed (nextword.predict.cpu.packed). Implements nextword.predict.engine.Engine."""

    def __init__(
        self, architecture: Architecture, packed: Packed, *, threads: int | None = None, kv_cache: KvCache = "auto"
    ) -> None:
        self.architecture = architecture
        self._packed = packed  # the kernels know only addresses
        self._model, self._tables = _model(architecture, packed, kv_cache)
        self._record = record(self._model)
        self._team = Team(threads or _cores(), compiled())
        self._workroom = Workroom(self._model, self._team.size, CHUNK)
        self._turn = threading.Lock()

    def open_session(self, capacity: int | None = None) -> CpuSession:
        """A new text; see nextword.predict.engine.Engine."""
        context = self.architecture.context
        return CpuSession(self, context if capacity is None else min(capacity, context))

    def feed_each(self, sessions: Sequence[CpuSession], pieces: Sequence[Sequence[int]]) -> Logits:
        """Read on in several texts, different ones; the logits after each, float32 [texts, vocab].

        The weights are read once for all, in passes of at most CHUNK tokens. The logits are those of
        `session.feed(piece)`, bit for bit. Raises ContextOverflow or UnknownToken before anything is read.
        """
        assert sessions
        assert len(sessions) == len(pieces) == len({id(session) for session in sessions})
        rows: list[tuple[CpuSession, int, bool]] = []  # a text, a token to read in it, whether it is the piece's last
        for session, piece in zip(sessions, pieces, strict=True):
            assert piece, "there is always something to read"
            check_room(session, piece, self.architecture)
            rows += [(session, each, False) for each in piece[:-1]]
            rows.append((session, piece[-1], True))
        logits = [self._read(rows[first : first + CHUNK]) for first in range(0, len(rows), CHUNK)]
        return np.concatenate(logits) if len(logits) > 1 else logits[0]

    def _read(self, rows: Sequence[tuple[CpuSession, int, bool]]) -> Logits:
        """One pass of at most CHUNK rows: tokens read in their texts, the logits after the wanted, [wanted, vocab]."""
        ids, positions, memories, capacities, wanted = [], [], [], [], []
        ahead: dict[CpuSession, int] = {}
        for row, (session, id, is_wanted) in enumerate(rows):
            before = ahead.get(session, 0)
            ids.append(id)
            positions.append(len(session.ids) + before)
            memories.append(session.address)
            capacities.append(session.places)
            if is_wanted:
                wanted.append(row)
            ahead[session] = before + 1
        n_spans = max(positions) // SPAN + 1
        counters = new_counters(n_stages(self._model.n_layers, len(ids)))
        with self._turn:
            rows_at = self._workroom.rows(ids, positions, memories, capacities, wanted)
            room_at = self._workroom.room(len(ids), n_spans, len(wanted))
            model_at, n_threads = self._record.ctypes.data, self._team.size
            call = record(Call(counters.ctypes.data, n_threads, model_at, rows_at, room_at, n_spans))
            self._team.run(call.ctypes.data)
            logits = self._workroom.logits(len(wanted))
        for session, id, _ in rows:
            session.ids.append(id)
        return logits


class CpuSession:
    """One text in the memory of a CpuEngine. Implements nextword.predict.engine.Session.

    memory: keys and values of `places` positions, as `kernels/forward.py` lays them out, and its address; it takes up
    room in the machine as positions are read.
    """

    batch_invariant = True

    def __init__(self, engine: CpuEngine, capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self.places = -(-capacity // SPAN) * SPAN
        self._engine = engine
        model = engine._model
        places, size = 2 * model.n_layers * model.n_kv_heads * self.places, whole(model.head_size)
        self._n_bytes = places * size * model.kv_bytes  # of keys and values; their steps follow
        try:
            self.memory: Bytes = reserve(self._n_bytes + (4 * places if model.kv_form == INT8 else 0))
            self.address: int = self.memory.ctypes.data
        except MemoryError as error:
            raise ContextOverflow(
                f"There is not enough memory for the keys and values of {capacity} tokens; use a shorter text."
            ) from error

    def feed(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits of the next token, float32 [vocab]."""
        logits: Logits = self._read(ids, every=False)[-1][-1]
        return logits

    def feed_all(self, ids: Sequence[int]) -> Logits:
        """Read on; the logits after each of `ids`, float32 [len(ids), vocab]."""
        return np.concatenate(self._read(ids, every=True))

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        assert 0 <= length <= len(self.ids)
        del self.ids[length:]

    def copy_from(self, other: CpuSession, length: int) -> None:
        """Hold the first `length` tokens that `other`, of the same engine and capacity, has read."""
        assert other._engine is self._engine
        assert other.places == self.places
        assert length <= len(other.ids)
        (keys, values, steps), (their_keys, their_values, their_steps) = self._views(), other._views()
        n_key_bytes = keys.shape[-1] // self.places * whole(length)
        keys[..., :n_key_bytes] = their_keys[..., :n_key_bytes]
        values[..., :length, :] = their_values[..., :length, :]
        steps[..., :length, :] = their_steps[..., :length, :]
        self.ids = other.ids[:length]

    def _views(self) -> tuple[Bytes, Bytes, Bytes]:
        """Bytes: keys [layers, heads, n], values [layers, heads, slices, places, n], steps [all of INT8, places, 4]."""
        model, places = self._engine._model, self.places
        numbers = self.memory[: self._n_bytes].reshape(model.n_layers, 2, model.n_kv_heads, -1)
        values = numbers[:, 1].reshape(model.n_layers, model.n_kv_heads, -1, places, LANES * model.kv_bytes)
        return numbers[:, 0], values, self.memory[self._n_bytes :].reshape(-1, places, 4)

    def _read(self, ids: Sequence[int], *, every: bool) -> list[Logits]:
        assert ids, "there is always something to read"
        check_room(self, ids, self._engine.architecture)
        rows = [(self, each, every) for each in ids]
        rows[-1] = (self, ids[-1], True)
        return [self._engine._read(rows[first : first + CHUNK]) for first in range(0, len(rows), CHUNK)]


def warm_up() -> None:
    """Compile the kernels, or load them, by running the smallest model."""
    smallest = Architecture(
        vocab=1,
        context=1,
        width=1,
        n_layers=1,
        n_heads=1,
        n_kv_heads=1,
        head_size=1,
        norm=RMSNorm(1e-5),
        position=Learned(),
        mlp=SwiGLU(1),
    )
    zeros = {name: StoredTensor.of(np.zeros(shape, np.float32)) for name, shape in tensor_shapes(smallest).items()}
    CpuEngine(smallest, pack(zeros), threads=1).open_session().feed([0])


def _cores() -> int:
    """How many cores this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, _MOST_THREADS)


def _model(a: Architecture, packed: Packed, kv_cache: KvCache) -> tuple[Model, list[npt.NDArray[Any]]]:
    """What the kernels must know of a model, and the tables that its addresses point into."""
    matrices = np.zeros((a.n_layers + 1, len(_MATRICES), 4), np.int64)
    norms = np.zeros((a.n_layers + 1, len(_NORMS), 2), np.int64)

    def address(name: str) -> int:
        return packed[name].address if name in packed else 0

    def matrix(layer: int, which: int, name: str) -> None:
        if (tensor := packed.get(f"{name}.weight")) is not None:
            row = (tensor.address, tensor.form, GROUP_BYTES[tensor.form], address(f"{name}.bias"))
            matrices[layer, which] = row

    for layer in range(a.n_layers):
        for which, name in enumerate(_MATRICES):
            matrix(layer, which, f"blocks.{layer}.{name}")
        for which, name in enumerate(_NORMS):
            norms[layer, which] = [address(f"blocks.{layer}.{name}.{part}") for part in ("weight", "bias")]
    matrix(a.n_layers, shapes.EMBED, "embed")
    matrix(a.n_layers, shapes.UNEMBED, "embed" if a.tied else "unembed")
    matrix(a.n_layers, shapes.POSITION, "position")
    norms[a.n_layers, shapes.FINAL] = [address(f"norm.{part}") for part in ("weight", "bias")]
    windows = np.array([_NO_WINDOW if window is None else window for window in a.windows], np.int64)
    frequencies = np.zeros(0, np.float32)
    if isinstance(a.position, Rotary):
        frequencies = rotary_frequencies(a.position, a.rotary_size)
    forms = {tensor.form for tensor in packed.values()}
    kv_form = FP16 if forms & {INT8, INT4, INT4_WIDE} else FP32
    if kv_cache != "auto":
        kv_form = _KV_FORMS[kv_cache]
    model = Model(
        n_layers=a.n_layers,
        width=a.width,
        vocab=a.vocab,
        n_heads=a.n_heads,
        n_kv_heads=a.n_kv_heads,
        head_size=a.head_size,
        mlp_width=a.mlp.width,
        mlp=_mlp(a.mlp),
        eps=np.float32(a.norm.eps),
        centred=isinstance(a.norm, LayerNorm),
        parallel=a.residual == "parallel",
        kv_form=kv_form,
        kv_bytes=NUMBER_BYTES[kv_form],
        matrices=matrices.ctypes.data,
        norms=norms.ctypes.data,
        windows=windows.ctypes.data,
        n_pairs=len(frequencies),
        frequencies=frequencies.ctypes.data,
    )
    return model, [matrices, norms, windows, frequencies]


def _mlp(mlp: Gelu | SwiGLU) -> int:
    match mlp:
        case SwiGLU():
            return shapes.GATED
        case Gelu(approximate=approximate):
            return shapes.TANH if approximate == "tanh" else shapes.EXACT
