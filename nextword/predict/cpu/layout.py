"""What the engine and its compiled kernels must agree on: sizes, and the records that a pass is called with.

Only names and numbers, so that an engine whose kernels were compiled before needs no compiler. A pass is called with
the addresses of records in memory (`record`) instead of with a hundred numbers, each of which Python would have to
convert between two passes, when everything but the weights has been thrown out of the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LANES = 32  # numbers in a vector, outputs in a tile
GROUP = 32  # columns that share a scale
X_BYTES = 4 * GROUP  # of 32 integers that a group is multiplied with
SPAN = 128  # positions whose softmax is taken together; later spans are joined to it
ATTENDING = 16  # rows that attend at once: bounds the room for spans
STAGE_BYTES = 128  # of a stage's two counters, pieces taken and pieces done, each in a cache line of its own

# A helper's door (kernels/parallel.py), a cache line of int64: how it stands, a pass, whether the helper slept.
DOOR_BYTES, CALL_AT, ASLEEP_AT = 64, 8, 16
AWAY, WAITING, CALLED, BUSY = range(4)

# How weights are stored: see nextword.predict.cpu.kernels.matmul.
FP32, BF16, FP16, INT8, INT4, INT4_WIDE = range(6)
# Bytes of one group of columns of one tile.
FP32_BYTES, HALF_BYTES = 4 * LANES * GROUP, 2 * LANES * GROUP
INT8_BYTES, INT4_BYTES, WIDE_BYTES = (2 + GROUP) * LANES, (4 + GROUP // 2) * LANES, (8 + GROUP // 2) * LANES
NUMBER_BYTES = {FP32: 4, FP16: 2, INT8: 1}  # of a key or value, see nextword.predict.cpu.kernels.forward
GROUP_BYTES = {
    FP32: FP32_BYTES,
    BF16: HALF_BYTES,
    FP16: HALF_BYTES,
    INT8: INT8_BYTES,
    INT4: INT4_BYTES,
    INT4_WIDE: WIDE_BYTES,
}

# Which matrix of a layer, and which norm. The layer after the last holds EMBED, UNEMBED, POSITION and FINAL.
QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)
EMBED, UNEMBED, POSITION = range(3)
ATTENTION_NORM, MLP_NORM, QUERY_NORM, KEY_NORM = range(4)
FINAL = 0
TANH, EXACT, GATED = range(3)  # what the MLP does


class Vectors(NamedTuple):
    """What matrices are multiplied with: rows of float32, and the same rows as integers; addresses, [rows, ...] each.

    floats: float32 [32 * groups]. integers: [groups, 128] bytes, see `put_x`. steps, sums: float32 [groups], a group's
    step and the sum of its numbers; counts: int32, the sum of its integers.
    Columns are padded with zeros to whole groups.
    """

    groups: int
    floats: int
    integers: int
    steps: int
    counts: int
    sums: int


class Grid(NamedTuple):
    """float32 [rows, columns]: where it begins, and how many columns it has."""

    at: int
    columns: int


class Model(NamedTuple):
    """What stays the same: sizes, and addresses of tables of int64.

    matrices: [n_layers + 1, 7, 4]: address of the weights (0: there are none), form, bytes of a group, address of the
    bias. norms: [n_layers + 1, 4, 2]: addresses of weight and bias. windows: [n_layers], how many positions each
    layer sees. frequencies: float32 [n_pairs], of the rotated pairs. kv_form, kv_bytes: of keys and values, FP32, FP16
    or INT8, and the bytes of a number.
    """

    n_layers: int
    width: int
    vocab: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    mlp_width: int
    mlp: int
    eps: np.float32
    centred: bool
    parallel: bool
    kv_form: int
    kv_bytes: int
    matrices: int
    norms: int
    windows: int
    n_pairs: int
    frequencies: int


class Rows(NamedTuple):
    """What a pass reads; addresses of int64 [n]. `memories` are addresses, `capacities` their positions."""

    n: int
    ids: int
    positions: int
    memories: int
    capacities: int
    n_wanted: int
    wanted: int  # the rows whose logits are asked for


class Room(NamedTuple):
    """Where a pass works: a row of each for each row of the pass, in whole vectors of lanes.

    scores: a row for each thread, SPAN numbers for each query head of a group. spans: a row for each row that
    attends, head and span: the largest score, the sum of the exponentials, and from number LANES on the values
    mixed by them. last, logits: a row for each that is wanted.
    """

    x: Grid
    normed: Vectors
    normed_mlp: Vectors
    query: Grid
    key: Grid
    value: Grid
    turned: Grid
    turns: Grid
    scores: Grid
    spans: Grid
    mixed: Vectors
    gate: Grid
    up: Grid
    hidden: Vectors
    last: Vectors
    logits: Grid


class Call(NamedTuple):
    """A pass: addresses of its counters and of the records of a Model, of Rows and of a Room; by how many threads."""

    counters: int
    n_threads: int
    model: int
    rows: int
    room: int
    n_spans: int


def n_stages(n_layers: int, n_rows: int) -> int:
    """How many stages a pass has at most."""
    return 3 + n_layers * (7 + 2 * -(-n_rows // ATTENDING))


Record = npt.NDArray[np.int64]


def record(numbers: tuple[Any, ...]) -> Record:
    """The table of a named tuple of int, bool, float32 and such tuples, int64 [numbers].

    A number each, in the order of the fields; tuples in tuples one after the other.
    """
    return np.fromiter(_flat(numbers), np.int64)


def _flat(numbers: tuple[Any, ...]) -> Iterator[int]:
    for each in numbers:
        if isinstance(each, tuple):
            yield from _flat(each)
        else:
            yield int(each.view(np.int32)) if isinstance(each, np.float32) else int(each)
