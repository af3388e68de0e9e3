"""The memory layout that the engine (Python) and its compiled kernels share: sizes, codes, and the structs of a pass.

It holds names and numbers only, so that an engine whose kernels were compiled earlier imports no compiler. A pass is
called with one address of a struct in memory (`pack_struct` writes it, `kernels/structs.py` reads it) instead of a
hundred arguments: Python would have to convert each of them between two passes, while the weights have evicted
everything else from the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LANES = 32  # numbers: of a vector register type; also the outputs of a weight tile
GROUP = 32  # columns: of a weight tile that share a scale (and a minimum)
X_BYTES = 4 * GROUP  # bytes: of 32 quantized activations, see `kernels/int_dot.py: put_integers`
SPLIT = 128  # positions: of one softmax; `combine_splits` joins those of a longer text (as flash-decoding does)
ATTEND_ROWS = 16  # rows: that attend in one phase; bounds `Scratch.splits`
PHASE_BYTES = 128  # bytes: of a phase's two counters, items taken and items done, a cache line each

# The mailbox of a worker (kernels/parallel.py) is a cache line of int64: its state, the address of a call, and whether
# the worker was parked when the call was posted.
MAILBOX_BYTES = 64  # bytes
CALL_OFFSET, PARKED_OFFSET = 8, 16  # bytes
PARKED, POLLING, POSTED, RUNNING = range(4)  # states

# Codes of the forms of weights; their tiles are described in `kernels/matmul.py`.
FP32, BF16, FP16, INT8, INT4, INT4_WIDE = range(6)
FORM_NAMES = ("fp32", "bf16", "fp16", "int8", "int4", "int4")  # words: for each of these
FP32_BYTES, HALF_BYTES = 4 * LANES * GROUP, 2 * LANES * GROUP
INT8_BYTES, INT4_BYTES, INT4_WIDE_BYTES = (2 + GROUP) * LANES, (4 + GROUP // 2) * LANES, (8 + GROUP // 2) * LANES
GROUP_BYTES = {  # bytes: of one group of columns of one tile
    FP32: FP32_BYTES,
    BF16: HALF_BYTES,
    FP16: HALF_BYTES,
    INT8: INT8_BYTES,
    INT4: INT4_BYTES,
    INT4_WIDE: INT4_WIDE_BYTES,
}
KV_FORMS = {"fp32": FP32, "fp16": FP16, "int8": INT8}  # codes: of the forms of keys and values
KV_BYTES = {FP32: 4, FP16: 2, INT8: 1}  # bytes: of one number of a key or value

# Rows of the tables `Model.matrices` and `Model.norms`, and the names of their tensors within a block.
QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)
LAYER_MATRICES = {
    QUERY: "attention.query",
    KEY: "attention.key",
    VALUE: "attention.value",
    OUTPUT: "attention.output",
    GATE: "mlp.gate",
    UP: "mlp.up",
    DOWN: "mlp.down",
}
ATTENTION_NORM, MLP_NORM, QUERY_NORM, KEY_NORM = range(4)
LAYER_NORMS = {
    ATTENTION_NORM: "attention_norm",
    MLP_NORM: "mlp_norm",
    QUERY_NORM: "attention.query_norm",
    KEY_NORM: "attention.key_norm",
}
N_MATRICES, N_NORMS = len(LAYER_MATRICES), len(LAYER_NORMS)
# Rows of the layer after the last: what belongs to no block.
EMBED, UNEMBED, POSITION = range(3)
FINAL_NORM = 0

GELU_TANH, GELU_ERF, SWIGLU = range(3)  # codes: of the nonlinearity of the MLP
NO_WINDOW = 1 << 40  # positions: the window of a layer that sees all


class Vectors(NamedTuple):
    """Addresses of the vectors that a matrix is multiplied with: rows of float32, and the same rows quantized.

    A number is x = scale * n, with one scale per group of 32 and n an integer of 16 bits. Columns are padded with zeros
    to whole groups.

    Attributes:
        groups: Groups of 32 columns in a row.
        floats: Address of float32 [rows, 32 * groups].
        integers: Address of n as the integer dot products read it, bytes [rows, groups, X_BYTES] (`put_integers`).
        scales: Address of float32 [rows, groups].
        counts: Address of int32 [rows, groups], the sum of a group's n.
        sums: Address of float32 [rows, groups], scale * count: the sum of a group's x.
    """

    groups: int
    floats: int
    integers: int
    scales: int
    counts: int
    sums: int


class Grid(NamedTuple):
    """A float32 matrix [rows, columns] in row order: its address, and the number of its columns."""

    at: int
    columns: int


class MatrixEntry(NamedTuple):
    """One row of the table `Model.matrices`, int64.

    Attributes:
        weights: Address of the tiles; 0 if the model has no matrix here.
        form: FP32 to INT4_WIDE.
        group_bytes: GROUP_BYTES[form].
        bias: Address of float32 [outputs], whole vectors of lanes; 0 if there is none.
    """

    weights: int
    form: int
    group_bytes: int
    bias: int


class NormEntry(NamedTuple):
    """One row of the table `Model.norms`, int64: addresses of float32 vectors; 0 where there is none."""

    weight: int
    bias: int


class Model(NamedTuple):
    """What all passes of an engine share: sizes, and addresses of tables.

    Attributes:
        n_layers, width, vocab, n_heads, n_kv_heads, head_size, mlp_width: As in `Architecture`.
        mlp: GELU_TANH, GELU_ERF or SWIGLU.
        eps: What norms add to the mean square.
        centred: Whether norms subtract the mean (LayerNorm) or not (RMSNorm).
        parallel: Whether attention and MLP of a block read the same residual.
        kv_form: FP32, FP16 or INT8, of keys and values.
        kv_bytes: KV_BYTES[kv_form].
        matrices: Address of int64 [n_layers + 1, N_MATRICES, 4], a `MatrixEntry` each.
        norms: Address of int64 [n_layers + 1, N_NORMS, 2], a `NormEntry` each.
        windows: Address of int64 [n_layers], the number of positions that a token sees.
        n_pairs: Pairs of dimensions that rotary embedding rotates; 0 without it.
        frequencies: Address of float32 [n_pairs], radians per position.
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
    """The input of a pass; a row is one token at one position of one text.

    Attributes:
        n: The number of rows.
        ids: Address of int64 [n], tokens.
        positions: Address of int64 [n].
        kv_caches: Address of int64 [n], addresses of the KV cache of each row's text.
        capacities: Address of int64 [n], the positions that this cache has room for.
        n_wanted: The number of rows whose logits are computed.
        wanted: Address of int64 [n_wanted], the numbers of those rows.
    """

    n: int
    ids: int
    positions: int
    kv_caches: int
    capacities: int
    n_wanted: int
    wanted: int


class Scratch(NamedTuple):
    """The buffers of a pass. Unless it says otherwise, a buffer has one row per row of the pass, in whole LANES.

    Attributes:
        x: The residual stream [width].
        normed: The input of attention [width].
        normed_mlp: The input of the MLP [width].
        query: [heads * head size]; after attention the heads' outputs.
        key: [key/value heads * head size].
        value: As `key`.
        rotated: Queries, then keys, after norm and rotary embedding, each head in whole LANES.
        cos_sin: Cosines, then sines, of the angles of the row's position [2 * n_pairs].
        scores: A row for each thread: SPLIT numbers for each of the query heads of one key/value head.
        splits: A row for each (row that attends, head, split): the largest score, the sum of the exponentials, and
            from number LANES on the values weighted by them.
        attended: The heads' outputs, one after the other, quantized [heads * head size].
        gate: [mlp_width].
        up: [mlp_width].
        hidden: The hidden layer of the MLP [mlp_width].
        final: The input of the unembedding, a row for each wanted row [width].
        logits: A row for each wanted row [vocab].
    """

    x: Grid
    normed: Vectors
    normed_mlp: Vectors
    query: Grid
    key: Grid
    value: Grid
    rotated: Grid
    cos_sin: Grid
    scores: Grid
    splits: Grid
    attended: Vectors
    gate: Grid
    up: Grid
    hidden: Vectors
    final: Vectors
    logits: Grid


class Call(NamedTuple):
    """One pass.

    Attributes:
        counters: Address of the phases' counters (`threads.new_counters`).
        n_threads: The number of threads that share out the pass.
        model, rows, scratch: Addresses of the packed structs of these names.
        n_splits: The number of SPLITs that the longest text of the pass has.
    """

    counters: int
    n_threads: int
    model: int
    rows: int
    scratch: int
    n_splits: int


def n_phases(n_layers: int, n_rows: int) -> int:
    """The largest number of phases of a pass (`kernels/forward.py: forward`).

    >>> n_phases(n_layers=1, n_rows=1)
    12
    """
    return 3 + n_layers * (7 + 2 * -(-n_rows // ATTEND_ROWS))


Struct = npt.NDArray[np.int64]


def pack_struct(numbers: tuple[Any, ...]) -> Struct:
    """A named tuple as an array for the kernels, int64 [numbers]: its fields in order, nested tuples flattened.

    Fields are int, bool, float32 (its bits) or named tuples of these.

    >>> pack_struct(Call(1, 2, 3, 4, 5, 6)).tolist()
    [1, 2, 3, 4, 5, 6]
    """
    return np.fromiter(_flat(numbers), np.int64)


def _flat(numbers: tuple[Any, ...]) -> Iterator[int]:
    for each in numbers:
        if isinstance(each, tuple):
            yield from _flat(each)
        else:
            yield int(each.view(np.int32)) if isinstance(each, np.float32) else int(each)
