"""The arrays that a forward pass works in, and their addresses for the kernels.

They are kept between passes and grow with the texts: no pass allocates what the one before has left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextword.predict.cpu.layout import ATTENDING, GROUP, LANES, SPAN, X_BYTES, Grid, Model, Room, Rows, Vectors, record
from nextword.predict.cpu.memory import aligned

_N, _N_WANTED = Rows._fields.index("n"), Rows._fields.index("n_wanted")


def whole(size: int) -> int:
    """`size` numbers, in whole vectors of lanes."""
    return -(-size // LANES) * LANES


class Workroom:
    """Room for passes of at most `n_rows` rows by `n_threads` threads, one pass at a time."""

    def __init__(self, model: Model, n_threads: int, n_rows: int) -> None:
        self._model = model
        self._arrays: dict[str, list[npt.NDArray[np.generic]]] = {}
        queries, keys = model.n_heads * model.head_size, model.n_kv_heads * model.head_size
        head, group = whole(model.head_size), model.n_heads // model.n_kv_heads
        spare = LANES  # heads are read in whole vectors of lanes, the last one too
        self._lists = np.zeros((5, n_rows), np.int64)
        ids, positions, memories, capacities, wanted = (each.ctypes.data for each in self._lists)
        self._rows = record(Rows(0, ids, positions, memories, capacities, 0, wanted))
        self._rows_at: int = self._rows.ctypes.data
        self._keep(
            Room(
                x=self._grid("x", n_rows, whole(model.width)),
                normed=self._vectors("normed", n_rows, model.width),
                normed_mlp=self._vectors("normed_mlp", n_rows, model.width),
                query=self._grid("query", n_rows, whole(queries) + spare),
                key=self._grid("key", n_rows, whole(keys) + spare),
                value=self._grid("value", n_rows, whole(keys) + spare),
                turned=self._grid("turned", n_rows, (model.n_heads + model.n_kv_heads) * head),
                turns=self._grid("turns", n_rows, 2 * model.n_pairs),
                scores=self._grid("scores", n_threads, group * SPAN),
                spans=self._grid("spans", 0, LANES + head),
                mixed=self._vectors("mixed", n_rows, queries),
                gate=self._grid("gate", n_rows, whole(model.mlp_width)),
                up=self._grid("up", n_rows, whole(model.mlp_width)),
                hidden=self._vectors("hidden", n_rows, model.mlp_width),
                last=self._vectors("last", 0, model.width),
                logits=self._grid("logits", 0, whole(model.vocab)),
            )
        )

    def rows(self, *lists: Sequence[int]) -> int:
        """The address of a pass's `Rows`: ids, positions, addresses of memories, their capacities, wanted rows."""
        n, n_wanted = len(lists[0]), len(lists[4])
        self._lists[:4, :n] = lists[:4]
        self._lists[4, :n_wanted] = lists[4]
        self._rows[_N], self._rows[_N_WANTED] = n, n_wanted
        return self._rows_at

    def room(self, n_rows: int, n_spans: int, n_wanted: int) -> int:
        """The address of the `Room`, with enough of what a pass may need more of: spans, last vectors and logits."""
        model = self._model
        n_joined = min(n_rows, ATTENDING) * model.n_heads * n_spans
        if len(self._arrays["spans"][0]) < n_joined:
            self._keep(self._room._replace(spans=self._grid("spans", n_joined, self._room.spans.columns)))
        if len(self._arrays["logits"][0]) < n_wanted:
            logits = self._grid("logits", n_wanted, self._room.logits.columns)
            self._keep(self._room._replace(logits=logits, last=self._vectors("last", n_wanted, model.width)))
        return self._room_at

    def logits(self, n_wanted: int) -> npt.NDArray[np.float32]:
        """A copy of the first rows of logits, float32 [n_wanted, vocab]."""
        rows: npt.NDArray[np.float32] = self._arrays["logits"][0][:n_wanted, : self._model.vocab].astype(np.float32)
        return rows

    def _keep(self, room: Room) -> None:
        self._room, self._record = room, record(room)
        self._room_at: int = self._record.ctypes.data

    def _grid(self, name: str, rows: int, columns: int) -> Grid:
        array = aligned((rows, columns), np.float32)
        self._arrays[name] = [array]
        return Grid(array.ctypes.data, columns)

    def _vectors(self, name: str, rows: int, columns: int) -> Vectors:
        groups = -(-columns // GROUP)
        arrays: list[npt.NDArray[np.generic]] = [
            aligned((rows, groups * GROUP), np.float32),
            aligned((rows, groups * X_BYTES), np.int8),
            aligned((rows, groups), np.float32),
            aligned((rows, groups), np.int32),
            aligned((rows, groups), np.float32),
        ]
        self._arrays[name] = arrays
        return Vectors(groups, *(each.ctypes.data for each in arrays))
