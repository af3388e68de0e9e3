"""The buffers that forward passes work in, and the addresses by which the kernels know them.

Buffers are kept between passes and grow with the texts, so that a pass allocates nothing that an earlier one left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextword.predict.cpu.layout import (
    ATTEND_ROWS,
    GROUP,
    LANES,
    SPLIT,
    X_BYTES,
    Grid,
    Model,
    Rows,
    Scratch,
    Vectors,
    pack_struct,
)
from nextword.predict.cpu.memory import aligned

_N, _N_WANTED = Rows._fields.index("n"), Rows._fields.index("n_wanted")


def padded(size: int) -> int:
    """`size`, rounded up to whole vectors of LANES.

    >>> padded(20), padded(64)
    (32, 64)
    """
    return -(-size // LANES) * LANES


class ScratchBuffers:
    """The input lists and the scratch of an engine's passes, which run one at a time.

    Args:
        model: The sizes of the model.
        n_threads: Threads of the pool.
        n_rows: The largest number of rows of a pass.
    """

    def __init__(self, model: Model, n_threads: int, n_rows: int) -> None:
        self._model = model
        self._arrays: dict[str, list[npt.NDArray[np.generic]]] = {}
        queries, keys = model.n_heads * model.head_size, model.n_kv_heads * model.head_size
        head, group = padded(model.head_size), model.n_heads // model.n_kv_heads
        spare = LANES  # numbers: heads are read in whole vectors, the last one too
        self._lists = np.zeros((5, n_rows), np.int64)
        ids, positions, kv_caches, capacities, wanted = (each.ctypes.data for each in self._lists)
        self._rows = pack_struct(Rows(0, ids, positions, kv_caches, capacities, 0, wanted))
        self._rows_address: int = self._rows.ctypes.data
        self._keep(
            Scratch(
                x=self._grid("x", n_rows, padded(model.width)),
                normed=self._vectors("normed", n_rows, model.width),
                normed_mlp=self._vectors("normed_mlp", n_rows, model.width),
                query=self._grid("query", n_rows, padded(queries) + spare),
                key=self._grid("key", n_rows, padded(keys) + spare),
                value=self._grid("value", n_rows, padded(keys) + spare),
                rotated=self._grid("rotated", n_rows, (model.n_heads + model.n_kv_heads) * head),
                cos_sin=self._grid("cos_sin", n_rows, 2 * model.n_pairs),
                scores=self._grid("scores", n_threads, group * SPLIT),
                splits=self._grid("splits", 0, LANES + head),
                attended=self._vectors("attended", n_rows, queries),
                gate=self._grid("gate", n_rows, padded(model.mlp_width)),
                up=self._grid("up", n_rows, padded(model.mlp_width)),
                hidden=self._vectors("hidden", n_rows, model.mlp_width),
                final=self._vectors("final", 0, model.width),
                logits=self._grid("logits", 0, padded(model.vocab)),
            )
        )

    def rows(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        kv_caches: Sequence[int],
        capacities: Sequence[int],
        wanted: Sequence[int],
    ) -> int:
        """Set the input of the next pass. Returns the address of its packed `Rows`.

        Args:
            ids: Tokens, one per row.
            positions: Their positions.
            kv_caches: The address of the KV cache of each row's text.
            capacities: The positions that each of these caches has room for.
            wanted: Numbers of the rows whose logits are computed.
        """
        n = len(ids)
        self._lists[:4, :n] = ids, positions, kv_caches, capacities
        self._lists[4, : len(wanted)] = wanted
        self._rows[_N], self._rows[_N_WANTED] = n, len(wanted)
        return self._rows_address

    def scratch(self, n_rows: int, n_splits: int, n_wanted: int) -> int:
        """Grow the buffers that depend on the pass. Returns the address of the packed `Scratch`.

        Args:
            n_rows: Rows of the pass.
            n_splits: SPLITs of its longest text.
            n_wanted: Rows whose logits are computed.
        """
        scratch, model = self._scratch, self._model
        n_attending = min(n_rows, ATTEND_ROWS) * model.n_heads * n_splits
        if len(self._arrays["splits"][0]) < n_attending:
            scratch = scratch._replace(splits=self._grid("splits", n_attending, scratch.splits.columns))
        if len(self._arrays["logits"][0]) < n_wanted:
            logits = self._grid("logits", n_wanted, scratch.logits.columns)
            scratch = scratch._replace(logits=logits, final=self._vectors("final", n_wanted, model.width))
        if scratch is not self._scratch:
            self._keep(scratch)
        return self._scratch_address

    def logits(self, n_wanted: int) -> npt.NDArray[np.float32]:
        """A copy of the logits of the last pass, float32 [n_wanted, vocab]."""
        rows: npt.NDArray[np.float32] = self._arrays["logits"][0][:n_wanted, : self._model.vocab].astype(np.float32)
        return rows

    def _keep(self, scratch: Scratch) -> None:
        self._scratch, self._packed = scratch, pack_struct(scratch)
        self._scratch_address: int = self._packed.ctypes.data

    def _grid(self, name: str, rows: int, columns: int) -> Grid:
        array = aligned((rows, columns), np.float32)
        self._arrays[name] = [array]
        return Grid(array.ctypes.data, columns)

    def _vectors(self, name: str, rows: int, columns: int) -> Vectors:
        groups = -(-columns // GROUP)
        arrays: list[npt.NDArray[np.generic]] = [  # in the order of the fields of `Vectors`
            aligned((rows, groups * GROUP), np.float32),
            aligned((rows, groups * X_BYTES), np.int8),
            aligned((rows, groups), np.float32),
            aligned((rows, groups), np.int32),
            aligned((rows, groups), np.float32),
        ]
        self._arrays[name] = arrays
        return Vectors(groups, *(each.ctypes.data for each in arrays))
