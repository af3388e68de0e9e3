"""The CPU engine: numba kernels over packed weights, no torch.

Reading in chunks, one token at a time, after a truncation or in a batch with other texts gives the same logits bit for
bit, whatever the number of threads.

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
from nextword.predict.cpu.kernel_cache import compiled
from nextword.predict.cpu.layout import (
    EMBED,
    FINAL_NORM,
    FORM_NAMES,
    FP16,
    FP32,
    GELU_ERF,
    GELU_TANH,
    GROUP_BYTES,
    INT4,
    INT4_WIDE,
    INT8,
    KV_BYTES,
    KV_FORMS,
    LANES,
    LAYER_MATRICES,
    LAYER_NORMS,
    N_MATRICES,
    N_NORMS,
    NO_WINDOW,
    POSITION,
    SPLIT,
    SWIGLU,
    UNEMBED,
    Call,
    MatrixEntry,
    Model,
    NormEntry,
    n_phases,
    pack_struct,
)
from nextword.predict.cpu.memory import reserve
from nextword.predict.cpu.packed import Packed, pack
from nextword.predict.cpu.scratch import ScratchBuffers, padded
from nextword.predict.cpu.threads import ThreadPool, new_counters
from nextword.predict.engine import KvCache, Logits, check_room

Bytes = npt.NDArray[np.uint8]
Table = npt.NDArray[Any]
PASS_ROWS = 128  # rows: of one pass; its buffers then fit into a core's cache
_MAX_THREADS = 16


class CpuEngine:
    """A model whose weights are packed (nextword.predict.cpu.packed). Implements nextword.predict.engine.Engine."""

    def __init__(
        self, architecture: Architecture, packed: Packed, *, threads: int | None = None, kv_cache: KvCache = "auto"
    ) -> None:
        """An engine.

        Args:
            architecture: What the model computes.
            packed: All its tensors, packed.
            threads: Threads that a pass is shared out to; None: one per core of this process, at most 16.
            kv_cache: The form of keys and values; "auto": fp16 beside integer weights, else fp32.
        """
        self.architecture = architecture
        self._packed = packed  # the kernels know addresses only: this keeps the weights alive
        self._model, self._tables = _model(architecture, packed, kv_cache)
        self._packed_model = pack_struct(self._model)
        self._pool = ThreadPool(threads or _cores(), compiled())
        self._buffers = ScratchBuffers(self._model, self._pool.size, PASS_ROWS)
        self._one_pass = threading.Lock()

    @property
    def description(self) -> str:
        """See nextword.predict.engine.Engine."""
        forms = sorted({FORM_NAMES[each.form] for each in self._packed.values() if len(each.shape) > 1})
        return f"the CPU kernels with weights in {' and '.join(forms)}"

    def open_session(self, capacity: int | None = None) -> CpuSession:
        """A new text; see nextword.predict.engine.Engine."""
        context = self.architecture.context
        return CpuSession(self, context if capacity is None else min(capacity, context))

    def feed_each(self, sessions: Sequence[CpuSession], pieces: Sequence[Sequence[int]]) -> Logits:
        """Read on in several texts, different ones; the logits after each, float32 [texts, vocab].

        The weights are read once for all, in passes of at most PASS_ROWS tokens. The logits are those of
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
        logits = [self._read(rows[first : first + PASS_ROWS]) for first in range(0, len(rows), PASS_ROWS)]
        return np.concatenate(logits) if len(logits) > 1 else logits[0]

    def _read(self, rows: Sequence[tuple[CpuSession, int, bool]]) -> Logits:
        """One pass. Returns the logits after the rows that want them, float32 [wanted, vocab].

        rows: at most PASS_ROWS; the text, the token to read in it, and whether the logits after it are wanted.
        """
        ids, positions, kv_caches, capacities, wanted = [], [], [], [], []
        ahead: dict[CpuSession, int] = {}
        for row, (session, id, is_wanted) in enumerate(rows):
            before = ahead.get(session, 0)
            ids.append(id)
            positions.append(len(session.ids) + before)
            kv_caches.append(session.address)
            capacities.append(session.places)
            if is_wanted:
                wanted.append(row)
            ahead[session] = before + 1
        n_splits = max(positions) // SPLIT + 1
        counters = new_counters(n_phases(self._model.n_layers, len(ids)))
        with self._one_pass:
            rows_address = self._buffers.rows(ids, positions, kv_caches, capacities, wanted)
            scratch_address = self._buffers.scratch(len(ids), n_splits, len(wanted))
            model_address, n_threads = self._packed_model.ctypes.data, self._pool.size
            call = Call(counters.ctypes.data, n_threads, model_address, rows_address, scratch_address, n_splits)
            packed_call = pack_struct(call)
            self._pool.run(packed_call.ctypes.data)
            logits = self._buffers.logits(len(wanted))
        for session, id, _ in rows:
            session.ids.append(id)
        return logits


class CpuSession:
    """One text in the memory of a CpuEngine. Implements nextword.predict.engine.Session.

    Attributes:
        places: The positions that the KV cache has room for: `capacity` in whole SPLITs.
        memory: The KV cache, bytes, as `kernels/forward.py` lays it out. Its pages become resident as positions are
            read.
        address: Its address.
    """

    batch_invariant = True

    def __init__(self, engine: CpuEngine, capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self.places = -(-capacity // SPLIT) * SPLIT
        self._engine = engine
        model = engine._model
        places, size = 2 * model.n_layers * model.n_kv_heads * self.places, padded(model.head_size)
        self._n_bytes = places * size * model.kv_bytes  # of keys and values; in INT8 their scales follow
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
        (keys, values, scales), (their_keys, their_values, their_scales) = self._views(), other._views()
        n_key_bytes = keys.shape[-1] // self.places * padded(length)
        keys[..., :n_key_bytes] = their_keys[..., :n_key_bytes]
        values[..., :length, :] = their_values[..., :length, :]
        scales[..., :length, :] = their_scales[..., :length, :]
        self.ids = other.ids[:length]

    def _views(self) -> tuple[Bytes, Bytes, Bytes]:
        """Keys, values and scales as bytes.

        Shapes: keys [layers, heads, n], values [layers, heads, slices, places, n], scales [2 * layers * heads, places,
        4], which are there in INT8 only.
        """
        model, places = self._engine._model, self.places
        numbers = self.memory[: self._n_bytes].reshape(model.n_layers, 2, model.n_kv_heads, -1)
        values = numbers[:, 1].reshape(model.n_layers, model.n_kv_heads, -1, places, LANES * model.kv_bytes)
        return numbers[:, 0], values, self.memory[self._n_bytes :].reshape(-1, places, 4)

    def _read(self, ids: Sequence[int], *, every: bool) -> list[Logits]:
        assert ids, "there is always something to read"
        check_room(self, ids, self._engine.architecture)
        rows = [(self, each, every) for each in ids]
        rows[-1] = (self, ids[-1], True)
        return [self._engine._read(rows[first : first + PASS_ROWS]) for first in range(0, len(rows), PASS_ROWS)]


def warm_up() -> None:
    """Compile the kernels, or load compiled ones, and run the smallest model once."""
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
    """The number of cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_THREADS)


def _model(a: Architecture, packed: Packed, kv_cache: KvCache) -> tuple[Model, list[Table]]:
    """The struct that describes a model to the kernels, and the tables that its addresses point into."""
    matrices, norms = _matrices(a, packed), _norms(a, packed)
    windows = np.array([NO_WINDOW if window is None else window for window in a.windows], np.int64)
    frequencies = np.zeros(0, np.float32)
    if isinstance(a.position, Rotary):
        frequencies = rotary_frequencies(a.position, a.rotary_size)
    kv_form = _kv_form(packed, kv_cache)
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
        kv_bytes=KV_BYTES[kv_form],
        matrices=matrices.ctypes.data,
        norms=norms.ctypes.data,
        windows=windows.ctypes.data,
        n_pairs=len(frequencies),
        frequencies=frequencies.ctypes.data,
    )
    return model, [matrices, norms, windows, frequencies]


def _matrices(a: Architecture, packed: Packed) -> Table:
    """The table `Model.matrices`, int64 [n_layers + 1, N_MATRICES, fields of MatrixEntry]."""
    table = np.zeros((a.n_layers + 1, N_MATRICES, len(MatrixEntry._fields)), np.int64)
    blocks = range(a.n_layers)
    names = {(block, which): f"blocks.{block}.{name}" for block in blocks for which, name in LAYER_MATRICES.items()}
    names[a.n_layers, EMBED] = "embed"
    names[a.n_layers, UNEMBED] = "embed" if a.tied else "unembed"
    names[a.n_layers, POSITION] = "position"
    for place, name in names.items():
        if (tensor := packed.get(f"{name}.weight")) is not None:
            bias = _address(packed, f"{name}.bias")
            table[place] = MatrixEntry(tensor.address, tensor.form, GROUP_BYTES[tensor.form], bias)
    return table


def _norms(a: Architecture, packed: Packed) -> Table:
    """The table `Model.norms`, int64 [n_layers + 1, N_NORMS, fields of NormEntry]."""
    table = np.zeros((a.n_layers + 1, N_NORMS, len(NormEntry._fields)), np.int64)
    blocks = range(a.n_layers)
    names = {(block, which): f"blocks.{block}.{name}" for block in blocks for which, name in LAYER_NORMS.items()}
    names[a.n_layers, FINAL_NORM] = "norm"
    for place, name in names.items():
        table[place] = NormEntry(_address(packed, f"{name}.weight"), _address(packed, f"{name}.bias"))
    return table


def _address(packed: Packed, name: str) -> int:
    """The address of a tensor; 0 if the model has none of this name."""
    return packed[name].address if name in packed else 0


def _kv_form(packed: Packed, kv_cache: KvCache) -> int:
    """The code of the form of keys and values."""
    if kv_cache != "auto":
        return KV_FORMS[kv_cache]
    return FP16 if {tensor.form for tensor in packed.values()} & {INT8, INT4, INT4_WIDE} else FP32


def _mlp(mlp: Gelu | SwiGLU) -> int:
    """The code of the MLP's nonlinearity."""
    match mlp:
        case SwiGLU():
            return SWIGLU
        case Gelu(approximate=approximate):
            return GELU_TANH if approximate == "tanh" else GELU_ERF
