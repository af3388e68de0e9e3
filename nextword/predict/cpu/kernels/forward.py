"""The equations of nextword.model.transformer as kernels: one forward pass over some rows.

A row is one token at one position of one text; the rows of a pass are those of a prompt, or the newest tokens of many
texts. `forward` is the whole pass and runs in all threads of the pool at once. Each of its phases is a kernel, called
by `parallel_for` for the items named on the right:

    embed                x = embed[id] (+ position[p]); cosines and sines of the position's angles   rows
    each layer:
      norm_rows          norm(x)                                                                     rows
      project_qkv        query, key, value = W norm(x)                                               tiles
      write_kv           QK-norm, RoPE; keys and values -> KV cache                                  rows, heads
      attend             softmax(q.k / sqrt(head size)) v within a split of 128 positions            rows, heads, splits
      combine_splits     the splits of a head joined                                                 rows, heads
      add_output         x += W_output heads                                                         tiles
      norm_rows          norm(x)                                                                     rows
      mlp_up             hidden = silu(W_gate norm(x)) * (W_up norm(x)), or gelu(W_up norm(x))       tiles
      add_output         x += W_down hidden                                                          tiles
    norm_final, unembed  logits = unembed(norm(x))                                                   rows, tiles

A tile is 32 outputs of a matrix (`matmul`). Attention is split along the text as in FlashDecoding (Dao et al., 2023).

Every number is computed by the same operations in the same order whatever the number of rows, of threads, and
however the text was cut into passes: results are equal bit for bit.

The KV cache of a text holds, per layer and key/value head, keys as tiles of 32 positions (a matrix whose outputs are
positions) and values as tiles of 32 dimensions (a matrix whose columns are positions), so that attention, too, is
tiles times vectors. In INT8 each key or value has a scale of its own, 1/127 of its largest number; the scales of all
keys and values follow behind them. A key's scale multiplies its score, a value's scale its attention weight.

Parameters that recur below: `first`, `last`: the items of a phase from `first` to before `last`. Addresses are int64,
in bytes; strides are in bytes, too.
"""

from __future__ import annotations

import math

import numpy as np

from nextword.predict.cpu.kernels.functions import exponential, gelu_exact, gelu_tanh, norm_lanes, norm_statistics, silu
from nextword.predict.cpu.kernels.matmul import (
    add_product,
    add_product_fp16,
    add_product_fp32,
    add_product_unscaled_int8,
    add_row,
    put_group,
)
from nextword.predict.cpu.kernels.parallel import parallel_for, run_thread_of
from nextword.predict.cpu.kernels.simd import (
    Floats,
    absolute,
    as_ints,
    broadcast,
    extract_lane,
    float_at,
    floats_at,
    fma,
    kernel,
    lane_max,
    lane_sum,
    long_at,
    mask_lanes,
    maximum,
    put_bytes,
    put_float,
    put_floats,
    put_fp16,
    scatter_bytes,
    scatter_floats,
    scatter_fp16,
    spliced,
)
from nextword.predict.cpu.kernels.structs import struct_reader
from nextword.predict.cpu.layout import (
    ATTEND_ROWS,
    ATTENTION_NORM,
    DOWN,
    EMBED,
    FINAL_NORM,
    FP16,
    GATE,
    GELU_TANH,
    GROUP,
    INT8,
    KEY,
    KEY_NORM,
    LANES,
    MLP_NORM,
    N_MATRICES,
    N_NORMS,
    OUTPUT,
    POSITION,
    QUERY,
    QUERY_NORM,
    SPLIT,
    SWIGLU,
    UNEMBED,
    UP,
    VALUE,
    Call,
    Grid,
    MatrixEntry,
    Model,
    NormEntry,
    Rows,
    Scratch,
    Vectors,
)

call_at, model_at, rows_at, scratch_at = (struct_reader(kind) for kind in (Call, Model, Rows, Scratch))
matrix_at, norm_at = struct_reader(MatrixEntry), struct_reader(NormEntry)
_MATRIX_BYTES, _NORM_BYTES = 8 * len(MatrixEntry._fields), 8 * len(NormEntry._fields)


@kernel
def cell_address(grid: Grid, row: int, column: int) -> int:
    """Address of one number.

    Args:
        grid: A float32 matrix.
        row: Its row, from 0.
        column: Its column, from 0.
    """
    return grid.at + 4 * (row * grid.columns + column)


@kernel
def matrix_entry(model: Model, layer: int, which: int) -> MatrixEntry:
    """The entry of a weight matrix in the table `model.matrices`.

    Args:
        model: The model.
        layer: A block from 0, or n_layers for what belongs to no block.
        which: QUERY to DOWN; EMBED, UNEMBED or POSITION.
    """
    return matrix_at(model.matrices + _MATRIX_BYTES * (N_MATRICES * layer + which))


@kernel
def norm_entry(model: Model, layer: int, which: int) -> NormEntry:
    """The entry of a norm in the table `model.norms`.

    Args:
        model: The model.
        layer: A block from 0, or n_layers for what belongs to no block.
        which: ATTENTION_NORM to KEY_NORM; FINAL_NORM.
    """
    return norm_at(model.norms + _NORM_BYTES * (N_NORMS * layer + which))


@kernel
def nth(numbers: int, index: int) -> int:
    """Number `index`, from 0, of the int64 array at the address `numbers`."""
    return long_at(numbers + 8 * index)


# --- one row ---


@kernel
def embed(first: int, last: int, model: Model, rows: Rows, scratch: Scratch) -> None:
    """x = the token's embedding (+ its position's); the cosines and sines of the position's rotary angles.

    Args:
        first: The first item, a row of the pass.
        last: The item after the last.
        model: The model.
        rows: The input of the pass.
        scratch: x and cos_sin are written.
    """
    tokens, positions = matrix_entry(model, model.n_layers, EMBED), matrix_entry(model, model.n_layers, POSITION)
    for row in range(first, last):
        x, cos_sin = cell_address(scratch.x, row, 0), cell_address(scratch.cos_sin, row, 0)
        position = nth(rows.positions, row)
        for at in range(0, model.width, LANES):
            put_floats(x + 4 * at, broadcast(np.float32(0.0)))
        add_row(tokens.weights, tokens.form, tokens.group_bytes, model.width, nth(rows.ids, row), x)
        if positions.weights != 0:
            add_row(positions.weights, positions.form, positions.group_bytes, model.width, position, x)
        for pair in range(model.n_pairs):
            angle = np.float64(np.float32(position) * float_at(model.frequencies + 4 * pair))
            put_float(cos_sin + 4 * pair, np.float32(math.cos(angle)))
            put_float(cos_sin + 4 * (model.n_pairs + pair), np.float32(math.sin(angle)))


@kernel
def norm_row(model: Model, layer: int, which: int, x: int, out: Vectors, row: int) -> None:
    """out[row] = norm(x), as float32 and quantized.

    Args:
        model: The model.
        layer: As in `norm_entry`.
        which: As in `norm_entry`.
        x: Address of float32 [width], in whole LANES.
        out: The vectors of which one row is written.
        row: That row.
    """
    mean, scale = norm_statistics(x, model.width, model.eps, model.centred)
    norm = norm_entry(model, layer, which)
    for group in range(out.groups):
        put_group(out, row, group, norm_lanes(x, LANES * group, model.width, mean, scale, norm.weight, norm.bias))


@kernel
def norm_rows(first: int, last: int, model: Model, layer: int, which: int, scratch: Scratch) -> None:
    """The inputs of attention and MLP: normed = norm(x), normed_mlp = norm'(x).

    Args:
        first: The first item, a row of the pass.
        last: The item after the last.
        model: The model.
        layer: The block.
        which: ATTENTION_NORM or MLP_NORM; the first writes both inputs where attention and MLP are parallel.
        scratch: x is read; normed, normed_mlp or both are written.
    """
    for row in range(first, last):
        x = cell_address(scratch.x, row, 0)
        if which == ATTENTION_NORM:
            norm_row(model, layer, ATTENTION_NORM, x, scratch.normed, row)
        if which == MLP_NORM or model.parallel:
            norm_row(model, layer, MLP_NORM, x, scratch.normed_mlp, row)


@kernel
def apply_rope(x: int, out: int, size: int, norm: int, model: Model, cos_sin: int, scale: np.float32) -> None:
    """out = scale * norm(x), rotated by its position: rotary position embedding (Su et al., 2021).

    The first n_pairs dimensions pair up with the n_pairs after them; the rest of the head is not rotated.

    Args:
        x: Address of float32 [size], a head's query or key.
        out: Address of float32 [size, in whole LANES].
        size: Dimensions of a head.
        norm: Address of the weight of QK-norm, float32 [size]; 0 if there is none.
        model: The model.
        cos_sin: Address of the cosines and sines of the position, float32 [2 * n_pairs].
        scale: 1 / sqrt(head size) for a query, 1 for a key.
    """
    length = broadcast(scale)
    if norm != 0:
        mean, length_scale = norm_statistics(x, size, model.eps, model.centred)
    for at in range(0, size, LANES):
        if norm != 0:
            put_floats(out + 4 * at, norm_lanes(x, at, size, mean, length_scale, norm, 0) * length)
        else:
            put_floats(out + 4 * at, mask_lanes(floats_at(x + 4 * at), 0, size - at, np.float32(0.0)) * length)
    pairs = model.n_pairs
    for pair in range(pairs):
        cos, sin = float_at(cos_sin + 4 * pair), float_at(cos_sin + 4 * (pairs + pair))
        one, other = out + 4 * pair, out + 4 * (pairs + pair)
        a, b = float_at(one), float_at(other)
        put_float(one, a * cos - b * sin)
        put_float(other, b * cos + a * sin)


# --- the KV cache ---


@kernel
def padded_head_size(model: Model) -> int:
    """Dimensions of a head, in whole LANES."""
    return -(-model.head_size // LANES) * LANES


@kernel
def heads_before(model: Model, layer: int, values: bool, head: int) -> int:
    """The number of heads' keys or values that lie in a KV cache before these: a layer's keys, then its values.

    Args:
        model: The model.
        layer: The block.
        values: Whether values are meant, or keys.
        head: The key/value head.
    """
    return model.n_kv_heads * (2 * layer + (1 if values else 0)) + head


@kernel
def key_tile_address(model: Model, kv_cache: int, capacity: int, layer: int, head: int, position: int) -> int:
    """Address of the tile of keys that begins at a position: [dimensions, 32 positions].

    Args:
        model: The model.
        kv_cache: Address of the KV cache of a text.
        capacity: Positions that it has room for.
        layer: The block.
        head: The key/value head.
        position: A multiple of 32.
    """
    before = heads_before(model, layer, False, head) * capacity + position
    return kv_cache + model.kv_bytes * padded_head_size(model) * before


@kernel
def value_address(model: Model, kv_cache: int, capacity: int, layer: int, head: int, slice: int, position: int) -> int:
    """Address of 32 dimensions of the value at a position; a head's values are [slices, positions, 32 dimensions].

    Args:
        model: The model.
        kv_cache: Address of the KV cache of a text.
        capacity: Positions that it has room for.
        layer: The block.
        head: The key/value head.
        slice: The dimensions from 32 * slice on.
        position: The position.
    """
    numbers_before = padded_head_size(model) * heads_before(model, layer, True, head) * capacity
    return kv_cache + model.kv_bytes * (numbers_before + LANES * (slice * capacity + position))


@kernel
def scale_address(
    model: Model, kv_cache: int, capacity: int, layer: int, values: bool, head: int, position: int
) -> int:
    """Address of the scales, float32, of a head's keys or values from a position on: behind all keys and values.

    Args:
        model: The model, with keys and values in INT8.
        kv_cache: Address of the KV cache of a text.
        capacity: Positions that it has room for.
        layer: The block.
        values: Whether the scales of values are meant, or of keys.
        head: The key/value head.
        position: The position.
    """
    all_numbers = heads_before(model, model.n_layers, False, 0) * capacity * padded_head_size(model)
    return kv_cache + all_numbers + 4 * (heads_before(model, layer, values, head) * capacity + position)


@kernel
def put_scale(x: int, size: int, to: int) -> np.float32:
    """Write the scale of a key or value in INT8: its largest magnitude / 127.

    Returns 1 / scale, by which the numbers are quantized; 0 if all of them are next to 0.

    Args:
        x: Address of float32 [size].
        size: Dimensions of a head.
        to: Address of the scale, one float32.
    """
    largest = broadcast(np.float32(0.0))
    for at in range(0, size, LANES):
        largest = maximum(mask_lanes(absolute(floats_at(x + 4 * at)), 0, size - at, np.float32(0.0)), largest)
    scale = lane_max(largest) / np.float32(127.0)
    put_float(to, scale)
    return np.float32(1.0) / scale if scale > np.float32(1e-30) else np.float32(0.0)


@kernel
def write_kv(first: int, last: int, model: Model, layer: int, rows: Rows, scratch: Scratch) -> None:
    """QK-norm and RoPE of queries and keys; keys and values written into the KV cache of their text.

    Args:
        first: The first item, a row's key/value head together with the query heads that share it.
        last: The item after the last.
        model: The model.
        layer: The block.
        rows: The input of the pass.
        scratch: query, key, value and cos_sin are read, rotated is written.
    """
    size, wide, group = model.head_size, padded_head_size(model), model.n_heads // model.n_kv_heads
    bytes_, query_scale = model.kv_bytes, np.float32(1.0 / math.sqrt(size))
    query_norm, key_norm = norm_entry(model, layer, QUERY_NORM), norm_entry(model, layer, KEY_NORM)
    for item in range(first, last):
        row, head = item // model.n_kv_heads, item % model.n_kv_heads
        cos_sin = cell_address(scratch.cos_sin, row, 0)
        for query in range(head * group, (head + 1) * group):
            x, out = cell_address(scratch.query, row, query * size), cell_address(scratch.rotated, row, query * wide)
            apply_rope(x, out, size, query_norm.weight, model, cos_sin, query_scale)
        x = cell_address(scratch.key, row, head * size)
        out = cell_address(scratch.rotated, row, (model.n_heads + head) * wide)
        apply_rope(x, out, size, key_norm.weight, model, cos_sin, np.float32(1.0))
        position, kv_cache = nth(rows.positions, row), nth(rows.kv_caches, row)
        capacity = nth(rows.capacities, row)
        tile = key_tile_address(model, kv_cache, capacity, layer, head, position // LANES * LANES)
        by_key, by_value = np.float32(0.0), np.float32(0.0)  # 1 / scale; used in INT8 only
        if model.kv_form == INT8:
            by_key = put_scale(out, size, scale_address(model, kv_cache, capacity, layer, False, head, position))
            numbers = cell_address(scratch.value, row, head * size)
            by_value = put_scale(numbers, size, scale_address(model, kv_cache, capacity, layer, True, head, position))
        for at in range(0, size, LANES):
            key = floats_at(out + 4 * at)
            value = floats_at(cell_address(scratch.value, row, head * size + at))
            value = mask_lanes(value, 0, size - at, np.float32(0.0))
            to_key = tile + bytes_ * (LANES * at + position % LANES)
            to_value = value_address(model, kv_cache, capacity, layer, head, at // LANES, position)
            if model.kv_form == INT8:
                scatter_bytes(to_key, LANES, as_ints(key * broadcast(by_key)))
                put_bytes(to_value, as_ints(value * broadcast(by_value)))
            elif model.kv_form == FP16:
                scatter_fp16(to_key, bytes_ * LANES, key)
                put_fp16(to_value, value)
            else:
                scatter_floats(to_key, bytes_ * LANES, key)
                put_floats(to_value, value)


# --- attention ---


@kernel
def attention_item(item: int, model: Model, n_splits: int) -> tuple[int, int, int]:
    """Row, key/value head and split of an item of `attend`.

    Args:
        item: The item.
        model: The model.
        n_splits: Splits of the longest text of the pass.
    """
    heads = item // n_splits
    return heads // model.n_kv_heads, heads % model.n_kv_heads, item % n_splits


@kernel
def attend(
    first: int,
    last: int,
    model: Model,
    layer: int,
    rows: Rows,
    scratch: Scratch,
    start: int,
    n_splits: int,
    thread: int,
) -> None:
    """Attention within one split of the positions, for the query heads that share a key/value head.

    What the next item reads is prefetched meanwhile: it lies elsewhere in memory, where the processor's own prefetcher
    does not look.

    Args:
        first: The first item, as `attention_item` numbers them.
        last: The item after the last.
        model: The model.
        layer: The block.
        rows: The input of the pass.
        scratch: rotated is read, scores and splits are written.
        start: The row of the pass that item 0 belongs to.
        n_splits: Splits of the longest text of the pass.
        thread: The thread that this runs in, whose row of scores is used.
    """
    group, wide, bytes_ = model.n_heads // model.n_kv_heads, padded_head_size(model), model.kv_bytes
    has_scales = model.kv_form == INT8
    for item in range(first, last):
        row, head, split = attention_item(item, model, n_splits)
        position = nth(rows.positions, start + row)
        begin = split * SPLIT  # of the positions begin .. begin + SPLIT the row sees those from `after` to before `end`
        after = max(0, position + 1 - nth(model.windows, layer) - begin)
        end = min(SPLIT, position + 1 - begin)
        if end <= 0 or after >= SPLIT:
            continue
        kv_cache, capacity = nth(rows.kv_caches, start + row), nth(rows.capacities, start + row)
        next_row, next_head, next_split = attention_item(min(item + 1, last - 1), model, n_splits)
        next_cache = nth(rows.kv_caches, start + next_row)
        next_capacity, next_begin = nth(rows.capacities, start + next_row), next_split * SPLIT
        queries = cell_address(scratch.rotated, start + row, head * group * wide)
        scores = cell_address(scratch.scores, thread, 0)
        n_tiles, dimensions = -(-end // LANES), -(-model.head_size // 8) * 8
        keys = key_tile_address(model, kv_cache, capacity, layer, head, begin)
        ahead = key_tile_address(model, next_cache, next_capacity, layer, next_head, next_begin) - keys
        for tile in range(n_tiles):
            for query in range(group):
                put_floats(scores + 4 * (SPLIT * query + LANES * tile), broadcast(np.float32(0.0)))
            at, out = keys + bytes_ * LANES * wide * tile, scores + 4 * LANES * tile
            add_kv_product(model.kv_form, at, dimensions, queries, 4 * wide, group, out, 4 * SPLIT, ahead)
        if has_scales:
            scales = scale_address(model, kv_cache, capacity, layer, False, head, begin)
            multiply_scales(scores, group, scales, n_tiles)
        weighted = cell_address(scratch.splits, (row * model.n_heads + head * group) * n_splits + split, 0)
        stride = 4 * n_splits * scratch.splits.columns
        for query in range(group):
            exp_scores(scores + 4 * SPLIT * query, after, end, weighted + query * stride)
        if has_scales:
            scales = scale_address(model, kv_cache, capacity, layer, True, head, begin)
            multiply_scales(scores, group, scales, n_tiles)
        for slice in range(wide // LANES):
            out = weighted + 4 * LANES * (1 + slice)
            for query in range(group):
                put_floats(out + query * stride, broadcast(np.float32(0.0)))
            values = value_address(model, kv_cache, capacity, layer, head, slice, begin)
            ahead = value_address(model, next_cache, next_capacity, layer, next_head, slice, next_begin) - values
            add_kv_product(model.kv_form, values, -(-end // 8) * 8, scores, 4 * SPLIT, group, out, stride, ahead)


@kernel
def add_kv_product(
    form: int, tile: int, n_columns: int, x: int, x_stride: int, n_rows: int, out: int, out_stride: int, ahead: int
) -> None:
    """out[row] += tile @ x[row], for a tile of keys or values; INT8 without scales.

    Args:
        form: FP32, FP16 or INT8.
        tile: Address of the tile, [n_columns, 32] numbers of this form.
        n_columns: Dimensions of keys, or positions of values; a multiple of 8.
        x: Address of float32 [n_rows, n_columns]: queries, or attention weights.
        x_stride: Bytes from one row of x to the next.
        n_rows: Query heads.
        out: Address of float32 [n_rows, 32]: scores of positions, or dimensions of the heads' outputs.
        out_stride: Bytes from one row of out to the next.
        ahead: Bytes from the tile to what is prefetched meanwhile; 0: nothing is.
    """
    if form == INT8:
        add_product_unscaled_int8(tile, n_columns, x, x_stride, n_rows, out, out_stride, ahead)
    elif form == FP16:
        add_product_fp16(tile, n_columns, x, x_stride, n_rows, out, out_stride, ahead)
    else:
        add_product_fp32(tile, n_columns, x, x_stride, n_rows, out, out_stride, ahead)


@kernel
def multiply_scales(scores: int, n_queries: int, scales: int, n_tiles: int) -> None:
    """Multiply each query's scores by the scales of their positions, in place.

    Args:
        scores: Address of float32 [n_queries, SPLIT].
        n_queries: Query heads, which share a key/value head.
        scales: Address of float32, the scales of keys or values from the split's first position on.
        n_tiles: Tiles of 32 positions.
    """
    for at in range(0, n_tiles * LANES, LANES):
        some = floats_at(scales + 4 * at)
        for query in range(n_queries):
            here = scores + 4 * (SPLIT * query + at)
            put_floats(here, floats_at(here) * some)


@kernel
def exp_scores(scores: int, after: int, end: int, out: int) -> None:
    """score -> exp(score - largest), in place, and 0 for positions that are not seen; out = largest, their sum.

    Args:
        scores: Address of float32 [SPLIT].
        after: The first position of the split that is seen.
        end: The position after the last that is seen.
        out: Address of two float32, the largest score and the sum of the exponentials.
    """
    top = broadcast(np.float32(-np.inf))
    for at in range(0, end, LANES):
        top = maximum(top, mask_lanes(floats_at(scores + 4 * at), after - at, end - at, np.float32(-np.inf)))
    largest = lane_max(top)
    sum = broadcast(np.float32(0.0))
    for at in range(0, end, LANES):
        weight = exponential(floats_at(scores + 4 * at) - broadcast(largest))
        weight = mask_lanes(weight, after - at, end - at, np.float32(0.0))
        put_floats(scores + 4 * at, weight)
        sum = sum + weight
    put_float(out, largest)
    put_float(out + 4, lane_sum(sum))


@kernel
def put_first(address: int, numbers: Floats, n: int) -> None:
    """Write the first `n` of 32 float32, or all 32: what follows may belong to another thread.

    Args:
        address: Address of the first.
        numbers: The numbers.
        n: The number of numbers to write; 32 or more: all.
    """
    if n >= LANES:
        put_floats(address, numbers)
    else:
        for i in range(n):
            put_float(address + 4 * i, extract_lane(numbers, i))


@kernel
def heads_per_item(model: Model) -> int:
    """The fewest heads whose dimensions fill whole GROUPs, which are quantized together."""
    size, group = model.head_size, GROUP
    while group % 2 == 0 and size % 2 == 0:
        size, group = size // 2, group // 2
    return group


@kernel
def combine_splits(
    first: int, last: int, model: Model, layer: int, rows: Rows, scratch: Scratch, start: int, n_splits: int
) -> None:
    """Join the splits of each head: attention over all positions.

    With m_i the largest score of split i and m that of all, numerators and denominators are summed with the weights
    exp(m_i - m).

    Args:
        first: The first item: `heads_per_item` heads of a row.
        last: The item after the last.
        model: The model.
        layer: The block.
        rows: The input of the pass.
        scratch: splits is read; query is overwritten by the heads' outputs; attended is written.
        start: The row of the pass that item 0 belongs to.
        n_splits: Splits of the longest text of the pass.
    """
    size, stride, together = model.head_size, 4 * scratch.splits.columns, heads_per_item(model)
    items_per_row = -(-model.n_heads // together)
    for item in range(first, last):
        row, first_head = item // items_per_row, item % items_per_row * together
        position = nth(rows.positions, start + row)
        from_split, to_split = max(0, position + 1 - nth(model.windows, layer)) // SPLIT, position // SPLIT + 1
        for head in range(first_head, min(first_head + together, model.n_heads)):
            splits = cell_address(scratch.splits, (row * model.n_heads + head) * n_splits, 0)
            largest = float_at(splits + from_split * stride)
            for split in range(from_split, to_split):
                largest = max(largest, float_at(splits + split * stride))
            for at in range(0, size, LANES):
                sum, weighted = broadcast(np.float32(0.0)), broadcast(np.float32(0.0))
                for split in range(from_split, to_split):
                    there = splits + split * stride
                    weight = exponential(broadcast(float_at(there) - largest))
                    sum = fma(weight, broadcast(float_at(there + 4)), sum)
                    weighted = fma(weight, floats_at(there + 4 * (LANES + at)), weighted)
                put_first(cell_address(scratch.query, start + row, head * size + at), weighted / sum, size - at)
        end = min((first_head + together) * size, model.n_heads * size)
        for group in range(first_head * size // GROUP, -(-end // GROUP)):
            at = group * GROUP
            x = mask_lanes(floats_at(cell_address(scratch.query, start + row, at)), 0, end - at, np.float32(0.0))
            put_group(scratch.attended, start + row, group, x)


# --- matrices: an item is a tile of 32 outputs ---


@kernel
def matmul_tile(
    model: Model, layer: int, which: int, tile: int, x: Vectors, n_rows: int, out: Grid, overwrite: bool
) -> None:
    """out[:, tile] = W x + bias, for one tile of a matrix; or +=.

    Args:
        model: The model.
        layer: As in `matrix_entry`.
        which: As in `matrix_entry`.
        tile: The outputs from 32 * tile on.
        x: The vectors.
        n_rows: The number of rows of x and out.
        out: What is written.
        overwrite: Whether out is overwritten, or added to.
    """
    matrix = matrix_entry(model, layer, which)
    at, stride = cell_address(out, 0, LANES * tile), 4 * out.columns
    start = floats_at(matrix.bias + 4 * LANES * tile) if matrix.bias != 0 else broadcast(np.float32(0.0))
    for row in range(n_rows):
        to = at + stride * row
        put_floats(to, start if overwrite else floats_at(to) + start)
    add_product(matrix.weights, matrix.form, tile, x, n_rows, at, stride)


@kernel
def project_qkv(first: int, last: int, model: Model, layer: int, scratch: Scratch, n_rows: int) -> None:
    """query, key and value = W norm(x).

    Args:
        first: The first item, a tile: those of queries, then of keys, then of values.
        last: The item after the last.
        model: The model.
        layer: The block.
        scratch: normed is read; query, key and value are written.
        n_rows: Rows of the pass.
    """
    queries = -(-model.n_heads * model.head_size // LANES)
    keys = -(-model.n_kv_heads * model.head_size // LANES)
    for tile in range(first, last):
        if tile < queries:
            matmul_tile(model, layer, QUERY, tile, scratch.normed, n_rows, scratch.query, True)
        elif tile < queries + keys:
            matmul_tile(model, layer, KEY, tile - queries, scratch.normed, n_rows, scratch.key, True)
        else:
            matmul_tile(model, layer, VALUE, tile - queries - keys, scratch.normed, n_rows, scratch.value, True)


@kernel
def add_output(
    first: int, last: int, model: Model, layer: int, which: int, x: Vectors, scratch: Scratch, n_rows: int
) -> None:
    """Add the output of attention or of the MLP to the residual stream: x += W_output heads, or x += W_down hidden.

    Args:
        first: The first item, a tile.
        last: The item after the last.
        model: The model.
        layer: The block.
        which: OUTPUT or DOWN.
        x: scratch.attended or scratch.hidden.
        scratch: x is added to.
        n_rows: Rows of the pass.
    """
    for tile in range(first, last):
        matmul_tile(model, layer, which, tile, x, n_rows, scratch.x, False)


@kernel
def mlp_up(first: int, last: int, model: Model, layer: int, scratch: Scratch, n_rows: int) -> None:
    """The hidden layer of the MLP: silu(W_gate norm(x)) * (W_up norm(x)), or gelu(W_up norm(x)).

    Args:
        first: The first item, a tile.
        last: The item after the last.
        model: The model.
        layer: The block.
        scratch: normed_mlp is read; up, gate and hidden are written.
        n_rows: Rows of the pass.
    """
    for tile in range(first, last):  # one matrix after the other: sequential reads reach the highest bandwidth
        matmul_tile(model, layer, UP, tile, scratch.normed_mlp, n_rows, scratch.up, True)
    if model.mlp == SWIGLU:
        for tile in range(first, last):
            matmul_tile(model, layer, GATE, tile, scratch.normed_mlp, n_rows, scratch.gate, True)
    for tile in range(first, last):
        for row in range(n_rows):
            up = floats_at(cell_address(scratch.up, row, LANES * tile))
            if model.mlp == SWIGLU:
                gate = floats_at(cell_address(scratch.gate, row, LANES * tile))
                put_group(scratch.hidden, row, tile, silu(gate) * up)
            elif model.mlp == GELU_TANH:
                put_group(scratch.hidden, row, tile, gelu_tanh(up))
            else:
                put_group(scratch.hidden, row, tile, gelu_exact(up))


@kernel
def norm_final(first: int, last: int, model: Model, rows: Rows, scratch: Scratch) -> None:
    """The final norm, of the rows whose logits are wanted.

    Args:
        first: The first item, an index into rows.wanted.
        last: The item after the last.
        model: The model.
        rows: The input of the pass.
        scratch: x is read, final is written.
    """
    for index in range(first, last):
        x = cell_address(scratch.x, nth(rows.wanted, index), 0)
        norm_row(model, model.n_layers, FINAL_NORM, x, scratch.final, index)


@kernel
def unembed(first: int, last: int, model: Model, scratch: Scratch, n_rows: int) -> None:
    """logits = W norm(x).

    Args:
        first: The first item, a tile.
        last: The item after the last.
        model: The model.
        scratch: final is read, logits is written.
        n_rows: Rows whose logits are wanted.
    """
    for tile in range(first, last):
        matmul_tile(model, model.n_layers, UNEMBED, tile, scratch.final, n_rows, scratch.logits, True)


# --- the whole ---


@spliced
def forward(thread: int, call: int) -> None:
    """One forward pass, run by all threads of the pool at once: keys and values -> KV caches, logits -> scratch.

    thread: this thread, from 0. call: address of a packed `Call`.
    """
    given = call_at(call)
    counters, n_threads, n_splits = given.counters, given.n_threads, given.n_splits
    model, rows, scratch = model_at(given.model), rows_at(given.rows), scratch_at(given.scratch)
    n_rows, size = rows.n, model.head_size
    query_tiles, key_tiles = -(-model.n_heads * size // LANES), -(-model.n_kv_heads * size // LANES)
    qkv_tiles = query_tiles + 2 * key_tiles
    width_tiles, hidden_tiles = scratch.x.columns // LANES, scratch.hidden.groups
    phase = parallel_for(counters, 1, n_rows, n_threads, embed, (model, rows, scratch))
    for layer in range(model.n_layers):
        norm_args = (model, layer, ATTENTION_NORM, scratch)
        phase = parallel_for(counters, phase, n_rows, n_threads, norm_rows, norm_args)
        phase = parallel_for(counters, phase, qkv_tiles, n_threads, project_qkv, (model, layer, scratch, n_rows))
        heads = n_rows * model.n_kv_heads
        phase = parallel_for(counters, phase, heads, n_threads, write_kv, (model, layer, rows, scratch))
        if layer == model.n_layers - 1 and rows.n_wanted == 0:
            break  # no logits are wanted: keys and values are all that is left of this pass
        for start in range(0, n_rows, ATTEND_ROWS):
            n = min(ATTEND_ROWS, n_rows - start)
            items = n * model.n_kv_heads * n_splits
            attend_args = (model, layer, rows, scratch, start, n_splits, thread)
            phase = parallel_for(counters, phase, items, n_threads, attend, attend_args)
            items = n * -(-model.n_heads // heads_per_item(model))
            combine_args = (model, layer, rows, scratch, start, n_splits)
            phase = parallel_for(counters, phase, items, n_threads, combine_splits, combine_args)
        output_args = (model, layer, OUTPUT, scratch.attended, scratch, n_rows)
        phase = parallel_for(counters, phase, width_tiles, n_threads, add_output, output_args)
        if not model.parallel:
            norm_args = (model, layer, MLP_NORM, scratch)
            phase = parallel_for(counters, phase, n_rows, n_threads, norm_rows, norm_args)
        phase = parallel_for(counters, phase, hidden_tiles, n_threads, mlp_up, (model, layer, scratch, n_rows))
        output_args = (model, layer, DOWN, scratch.hidden, scratch, n_rows)
        phase = parallel_for(counters, phase, width_tiles, n_threads, add_output, output_args)
    wanted, vocab_tiles = rows.n_wanted, -(-model.vocab // LANES)
    phase = parallel_for(counters, phase, wanted, n_threads, norm_final, (model, rows, scratch))
    parallel_for(counters, phase, vocab_tiles, n_threads, unembed, (model, scratch, wanted))


# What `threads.ThreadPool` calls as `Kernels.run_thread`: the loop of `parallel.run_thread_of` around `forward`.
# `kernel_cache` compiles it under this name.
run_thread = run_thread_of(forward)
