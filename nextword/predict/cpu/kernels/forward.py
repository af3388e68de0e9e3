"""The equations of nextword.model.transformer, as kernels: one forward pass of some rows.

A row is one token at one position of one text; the rows of a pass may be a prompt's, or the newest tokens of many
texts. `forward` is the whole pass and is run by all threads of a team at once; what they share out is a `share`:

    begin                x = embed[id] (+ position[p])
    each layer:
      read               x -> norm(x)                                   rows
      project            query, key, value = W norm(x)                  tiles of 32 outputs
      remember           norm and turn them by position; keys, values -> memory    rows, heads
      attend, gather     softmax(q.k / sqrt(head size)) mixes values    rows, heads, 128 positions at a time
      give back          x += W_output mixed                            tiles
      read, widen        hidden = silu(W_gate norm(x)) * (W_up norm(x)), or gelu     tiles
      give back          x += W_down hidden                             tiles
    finish               logits = unembed(norm(x))                      tiles

Every number is computed by the same operations in the same order whatever the number of rows, of threads, and
however the text was cut into passes: results are equal bit for bit.

The memory of a text holds, per layer and key/value head, keys as tiles of 32 positions (a matrix whose outputs are
positions) and values as tiles of 32 dimensions (a matrix whose columns are positions), so that attention too is
tiles times vectors. As bytes, a key or value has a step of its own, which is 1/127 of its largest number; the steps of
all keys and values follow behind them. A key's step multiplies its score, a value's step its share.
"""

from __future__ import annotations

import math

import numpy as np

from nextword.predict.cpu.kernels.functions import centre_and_scale, exponential, gelu_exact, gelu_tanh, normed, silu
from nextword.predict.cpu.kernels.matmul import (
    add_product,
    add_product_bytes,
    add_product_fp16,
    add_product_fp32,
    add_row,
    put_group,
)
from nextword.predict.cpu.kernels.parallel import share, shared
from nextword.predict.cpu.kernels.simd import (
    Floats,
    as_ints,
    every,
    float_at,
    floats_at,
    fma,
    keep,
    kernel,
    lane,
    larger,
    long_at,
    magnitude,
    peak,
    put_bytes,
    put_float,
    put_floats,
    put_halves,
    scatter_bytes,
    scatter_floats,
    scatter_halves,
    spliced,
    total,
)
from nextword.predict.cpu.kernels.structs import reader
from nextword.predict.cpu.layout import (
    ATTENDING,
    ATTENTION_NORM,
    DOWN,
    EMBED,
    FINAL,
    FP16,
    GATE,
    GATED,
    GROUP,
    INT8,
    KEY,
    KEY_NORM,
    LANES,
    MLP_NORM,
    OUTPUT,
    POSITION,
    QUERY,
    QUERY_NORM,
    SPAN,
    TANH,
    UNEMBED,
    UP,
    VALUE,
    Call,
    Grid,
    Model,
    Room,
    Rows,
    Vectors,
)

the_call, the_model, the_rows, the_room = reader(Call), reader(Model), reader(Rows), reader(Room)


@kernel
def place(grid: Grid, row: int, column: int) -> int:
    """Address of a number."""
    return grid.at + 4 * (row * grid.columns + column)


@kernel
def matrix(model: Model, layer: int, which: int) -> tuple[int, int, int, int]:
    """Address of the weights, form, bytes of a group, address of the bias."""
    at = model.matrices + 8 * 4 * (7 * layer + which)
    return long_at(at), long_at(at + 8), long_at(at + 16), long_at(at + 24)


@kernel
def norm_of(model: Model, layer: int, which: int) -> tuple[int, int]:
    """Addresses of a norm's weight and bias."""
    at = model.norms + 8 * 2 * (4 * layer + which)
    return long_at(at), long_at(at + 8)


@kernel
def number(numbers: int, index: int) -> int:
    """One of some int64."""
    return long_at(numbers + 8 * index)


# --- one row ---


@kernel
def begin_rows(first: int, last: int, model: Model, rows: Rows, room: Room) -> None:
    """x = the token's embedding (+ its position's); the cosines and sines of its position."""
    embed, embed_form, embed_bytes, _ = matrix(model, model.n_layers, EMBED)
    places, places_form, places_bytes, _ = matrix(model, model.n_layers, POSITION)
    for row in range(first, last):
        x, turns = place(room.x, row, 0), place(room.turns, row, 0)
        position = number(rows.positions, row)
        for at in range(0, model.width, LANES):
            put_floats(x + 4 * at, every(np.float32(0.0)))
        add_row(embed, embed_form, embed_bytes, model.width, number(rows.ids, row), x)
        if places != 0:
            add_row(places, places_form, places_bytes, model.width, position, x)
        for pair in range(model.n_pairs):
            angle = np.float64(np.float32(position) * float_at(model.frequencies + 4 * pair))
            put_float(turns + 4 * pair, np.float32(math.cos(angle)))
            put_float(turns + 4 * (model.n_pairs + pair), np.float32(math.sin(angle)))


@kernel
def norm_row(model: Model, layer: int, which: int, x: int, out: Vectors, row: int) -> None:
    """out[row] = norm(x)."""
    mean, scale = centre_and_scale(x, model.width, model.eps, model.centred)
    weight, bias = norm_of(model, layer, which)
    for group in range(out.groups):
        put_group(out, row, group, normed(x, LANES * group, model.width, mean, scale, weight, bias))


@kernel
def read_rows(first: int, last: int, model: Model, layer: int, which: int, room: Room) -> None:
    """What the matrices of attention or of the MLP read."""
    for row in range(first, last):
        x = place(room.x, row, 0)
        if which == ATTENTION_NORM:
            norm_row(model, layer, ATTENTION_NORM, x, room.normed, row)
        if which == MLP_NORM or model.parallel:
            norm_row(model, layer, MLP_NORM, x, room.normed_mlp, row)


@kernel
def turn_head(x: int, out: int, size: int, norm: int, model: Model, turns: int, scale: np.float32) -> None:
    """out = a head's query or key, normed if there is a norm, times `scale`, turned by its position."""
    length = every(scale)
    if norm != 0:
        mean, length_scale = centre_and_scale(x, size, model.eps, model.centred)
    for at in range(0, size, LANES):
        if norm != 0:
            put_floats(out + 4 * at, normed(x, at, size, mean, length_scale, norm, 0) * length)
        else:
            put_floats(out + 4 * at, keep(floats_at(x + 4 * at), 0, size - at, np.float32(0.0)) * length)
    pairs = model.n_pairs
    for pair in range(pairs):
        cos, sin = float_at(turns + 4 * pair), float_at(turns + 4 * (pairs + pair))
        one, other = out + 4 * pair, out + 4 * (pairs + pair)
        a, b = float_at(one), float_at(other)
        put_float(one, a * cos - b * sin)
        put_float(other, b * cos + a * sin)


@kernel
def head_room(model: Model) -> int:
    """Numbers of a head, in whole vectors of lanes."""
    return -(-model.head_size // LANES) * LANES


@kernel
def heads_before(model: Model, layer: int, values: bool, head: int) -> int:
    """How many heads' keys or values lie in a memory before these: a layer's keys, then its values."""
    return model.n_kv_heads * (2 * layer + (1 if values else 0)) + head


@kernel
def keys_at(model: Model, memory: int, capacity: int, layer: int, head: int, position: int) -> int:
    """Address of the tile of 32 keys that begins at this position: [dimensions, 32 positions]."""
    before = heads_before(model, layer, False, head) * capacity + position
    return memory + model.kv_bytes * head_room(model) * before


@kernel
def values_at(model: Model, memory: int, capacity: int, layer: int, head: int, slice: int, position: int) -> int:
    """Address of 32 dimensions of the value at this position: [slices, positions, 32 dimensions]."""
    numbers_before = head_room(model) * heads_before(model, layer, True, head) * capacity
    return memory + model.kv_bytes * (numbers_before + LANES * (slice * capacity + position))


@kernel
def steps_at(model: Model, memory: int, capacity: int, layer: int, values: bool, head: int, position: int) -> int:
    """Address of the steps, float32, of the keys or values from this position on: behind all keys and values."""
    all_numbers = heads_before(model, model.n_layers, False, 0) * capacity * head_room(model)
    return memory + all_numbers + 4 * (heads_before(model, layer, values, head) * capacity + position)


@kernel
def put_step(x: int, size: int, to: int) -> np.float32:
    """Write the step in which the largest of some float32 is 127; what makes whole numbers of them, by multiplying.

    That is 0 if all of them are next to nothing.
    """
    largest = every(np.float32(0.0))
    for at in range(0, size, LANES):
        largest = larger(keep(magnitude(floats_at(x + 4 * at)), 0, size - at, np.float32(0.0)), largest)
    step = peak(largest) / np.float32(127.0)
    put_float(to, step)
    return np.float32(1.0) / step if step > np.float32(1e-30) else np.float32(0.0)


@kernel
def remember_heads(first: int, last: int, model: Model, layer: int, rows: Rows, room: Room) -> None:
    """Queries and keys normed and turned; keys and values written into the memory of their text.

    A piece is a row's key/value head, with the query heads that share it.
    """
    size, wide, group = model.head_size, head_room(model), model.n_heads // model.n_kv_heads
    bytes_, scale = model.kv_bytes, np.float32(1.0 / math.sqrt(size))
    query_norm, _ = norm_of(model, layer, QUERY_NORM)
    key_norm, _ = norm_of(model, layer, KEY_NORM)
    for piece in range(first, last):
        row, head = piece // model.n_kv_heads, piece % model.n_kv_heads
        turns = place(room.turns, row, 0)
        for query in range(head * group, (head + 1) * group):
            x, out = place(room.query, row, query * size), place(room.turned, row, query * wide)
            turn_head(x, out, size, query_norm, model, turns, scale)
        x, out = place(room.key, row, head * size), place(room.turned, row, (model.n_heads + head) * wide)
        turn_head(x, out, size, key_norm, model, turns, np.float32(1.0))
        position, memory = number(rows.positions, row), number(rows.memories, row)
        capacity = number(rows.capacities, row)
        tile = keys_at(model, memory, capacity, layer, head, position // LANES * LANES)
        to_key, to_value = np.float32(0.0), np.float32(0.0)  # of use only to bytes
        if model.kv_form == INT8:
            to_key = put_step(out, size, steps_at(model, memory, capacity, layer, False, head, position))
            numbers = place(room.value, row, head * size)
            to_value = put_step(numbers, size, steps_at(model, memory, capacity, layer, True, head, position))
        for at in range(0, size, LANES):
            key = floats_at(out + 4 * at)
            value = keep(floats_at(place(room.value, row, head * size + at)), 0, size - at, np.float32(0.0))
            to = tile + bytes_ * (LANES * at + position % LANES)
            value_to = values_at(model, memory, capacity, layer, head, at // LANES, position)
            if model.kv_form == INT8:
                scatter_bytes(to, LANES, as_ints(key * every(to_key)))
                put_bytes(value_to, as_ints(value * every(to_value)))
            elif model.kv_form == FP16:
                scatter_halves(to, bytes_ * LANES, key)
                put_halves(value_to, value)
            else:
                scatter_floats(to, bytes_ * LANES, key)
                put_floats(value_to, value)


# --- attention ---


@kernel
def piece_of(piece: int, model: Model, n_spans: int) -> tuple[int, int, int]:
    """Row, key/value head and span of a piece of attention."""
    heads = piece // n_spans
    return heads // model.n_kv_heads, heads % model.n_kv_heads, piece % n_spans


@kernel
def attend_spans(
    first: int, last: int, model: Model, layer: int, rows: Rows, room: Room, start: int, n_spans: int, thread: int
) -> None:
    """Softmax within one SPAN of positions, for the query heads that share a key/value head.

    Pieces are those of `piece_of`; `start` is the row of piece 0. What the next piece reads is fetched meanwhile: it
    lies elsewhere in memory, which a processor cannot foresee.
    """
    group, wide, bytes_ = model.n_heads // model.n_kv_heads, head_room(model), model.kv_bytes
    in_steps = model.kv_form == INT8
    for piece in range(first, last):
        row, head, span = piece_of(piece, model, n_spans)
        here = number(rows.positions, start + row)
        begin = span * SPAN  # of the positions begin .. begin + SPAN it sees after .. end
        after, end = max(0, here + 1 - number(model.windows, layer) - begin), min(SPAN, here + 1 - begin)
        if end <= 0 or after >= SPAN:
            continue
        memory, capacity = number(rows.memories, start + row), number(rows.capacities, start + row)
        next_row, next_head, next_span = piece_of(min(piece + 1, last - 1), model, n_spans)
        next_memory = number(rows.memories, start + next_row)
        next_capacity, next_begin = number(rows.capacities, start + next_row), next_span * SPAN
        queries = place(room.turned, start + row, head * group * wide)
        scores = place(room.scores, thread, 0)
        n_tiles, dimensions = -(-end // LANES), -(-model.head_size // 8) * 8
        keys = keys_at(model, memory, capacity, layer, head, begin)
        ahead = keys_at(model, next_memory, next_capacity, layer, next_head, next_begin) - keys
        for tile in range(n_tiles):
            for query in range(group):
                put_floats(scores + 4 * (SPAN * query + LANES * tile), every(np.float32(0.0)))
            at, out = keys + bytes_ * LANES * wide * tile, scores + 4 * LANES * tile
            add_kv_product(model.kv_form, at, dimensions, queries, 4 * wide, group, out, 4 * SPAN, ahead)
        if in_steps:
            steps = steps_at(model, memory, capacity, layer, False, head, begin)
            times_steps(scores, group, steps, n_tiles)
        mixed = place(room.spans, (row * model.n_heads + head * group) * n_spans + span, 0)
        step = 4 * n_spans * room.spans.columns
        for query in range(group):
            exponentials(scores + 4 * SPAN * query, after, end, mixed + query * step)
        if in_steps:
            steps = steps_at(model, memory, capacity, layer, True, head, begin)
            times_steps(scores, group, steps, n_tiles)
        for slice in range(wide // LANES):
            out = mixed + 4 * LANES * (1 + slice)
            for query in range(group):
                put_floats(out + query * step, every(np.float32(0.0)))
            values = values_at(model, memory, capacity, layer, head, slice, begin)
            ahead = values_at(model, next_memory, next_capacity, layer, next_head, slice, next_begin) - values
            add_kv_product(model.kv_form, values, -(-end // 8) * 8, scores, 4 * SPAN, group, out, step, ahead)


@kernel
def add_kv_product(
    form: int, tile: int, n_columns: int, x: int, x_step: int, n_rows: int, out: int, out_step: int, ahead: int
) -> None:
    """out[row] += tile @ x[row], of keys or values in this form; see nextword.predict.cpu.kernels.matmul."""
    if form == INT8:
        add_product_bytes(tile, n_columns, x, x_step, n_rows, out, out_step, ahead)
    elif form == FP16:
        add_product_fp16(tile, n_columns, x, x_step, n_rows, out, out_step, ahead)
    else:
        add_product_fp32(tile, n_columns, x, x_step, n_rows, out, out_step, ahead)


@kernel
def times_steps(scores: int, n_queries: int, steps: int, n_tiles: int) -> None:
    """Each query's scores times the steps of their positions, which are the same for all."""
    for at in range(0, n_tiles * LANES, LANES):
        some = floats_at(steps + 4 * at)
        for query in range(n_queries):
            here = scores + 4 * (SPAN * query + at)
            put_floats(here, floats_at(here) * some)


@kernel
def exponentials(scores: int, after: int, end: int, out: int) -> None:
    """exp(score - largest) for the scores from `after` to before `end`, 0 for others; out = largest, their sum."""
    top = every(np.float32(-np.inf))
    for at in range(0, end, LANES):
        top = larger(top, keep(floats_at(scores + 4 * at), after - at, end - at, np.float32(-np.inf)))
    largest = peak(top)
    sum = every(np.float32(0.0))
    for at in range(0, end, LANES):
        share = exponential(floats_at(scores + 4 * at) - every(largest))
        share = keep(share, after - at, end - at, np.float32(0.0))
        put_floats(scores + 4 * at, share)
        sum = sum + share
    put_float(out, largest)
    put_float(out + 4, total(sum))


@kernel
def put_some(address: int, numbers: Floats, n: int) -> None:
    """Write the first n of 32 float32, all if n is more: what follows may be another thread's."""
    if n >= LANES:
        put_floats(address, numbers)
    else:
        for i in range(n):
            put_float(address + 4 * i, lane(numbers, i))


@kernel
def heads_together(model: Model) -> int:
    """The fewest heads whose numbers fill whole groups."""
    size, group = model.head_size, GROUP
    while group % 2 == 0 and size % 2 == 0:
        size, group = size // 2, group // 2
    return group


@kernel
def gather_heads(
    first: int, last: int, model: Model, layer: int, rows: Rows, room: Room, start: int, n_spans: int
) -> None:
    """The spans of each head joined: softmax over all positions, and the values mixed by it.

    A piece is some heads of a row that fill whole groups.
    """
    size, step, together = model.head_size, 4 * room.spans.columns, heads_together(model)
    n_pieces = -(-model.n_heads // together)
    for piece in range(first, last):
        row, first_head = piece // n_pieces, piece % n_pieces * together
        here = number(rows.positions, start + row)
        from_span, to_span = max(0, here + 1 - number(model.windows, layer)) // SPAN, here // SPAN + 1
        for head in range(first_head, min(first_head + together, model.n_heads)):
            spans = place(room.spans, (row * model.n_heads + head) * n_spans, 0)
            largest = float_at(spans + from_span * step)
            for span in range(from_span, to_span):
                largest = max(largest, float_at(spans + span * step))
            for at in range(0, size, LANES):
                sum, mixed = every(np.float32(0.0)), every(np.float32(0.0))
                for span in range(from_span, to_span):
                    there = spans + span * step
                    weight = exponential(every(float_at(there) - largest))
                    sum = fma(weight, every(float_at(there + 4)), sum)
                    mixed = fma(weight, floats_at(there + 4 * (LANES + at)), mixed)
                put_some(place(room.query, start + row, head * size + at), mixed / sum, size - at)
        end = min((first_head + together) * size, model.n_heads * size)
        for group in range(first_head * size // GROUP, -(-end // GROUP)):
            at = group * GROUP
            x = keep(floats_at(place(room.query, start + row, at)), 0, end - at, np.float32(0.0))
            put_group(room.mixed, start + row, group, x)


# --- matrices: pieces are tiles of 32 outputs ---


@kernel
def product(model: Model, layer: int, which: int, tile: int, x: Vectors, n_rows: int, out: Grid, fresh: bool) -> None:
    """out[:, tile] = W x + bias for one tile of a matrix; added to what is there unless `fresh`."""
    weights, form, _, bias = matrix(model, layer, which)
    at, step = place(out, 0, LANES * tile), 4 * out.columns
    start = floats_at(bias + 4 * LANES * tile) if bias != 0 else every(np.float32(0.0))
    for row in range(n_rows):
        to = at + step * row
        put_floats(to, start if fresh else floats_at(to) + start)
    add_product(weights, form, tile, x, n_rows, at, step)


@kernel
def project_tiles(first: int, last: int, model: Model, layer: int, room: Room, n_rows: int) -> None:
    """query, key and value = W norm(x), one after the other."""
    queries = -(-model.n_heads * model.head_size // LANES)
    keys = -(-model.n_kv_heads * model.head_size // LANES)
    for tile in range(first, last):
        if tile < queries:
            product(model, layer, QUERY, tile, room.normed, n_rows, room.query, True)
        elif tile < queries + keys:
            product(model, layer, KEY, tile - queries, room.normed, n_rows, room.key, True)
        else:
            product(model, layer, VALUE, tile - queries - keys, room.normed, n_rows, room.value, True)


@kernel
def give_back_tiles(
    first: int, last: int, model: Model, layer: int, which: int, x: Vectors, room: Room, n_rows: int
) -> None:
    """x += W_output mixed, or W_down hidden."""
    for tile in range(first, last):
        product(model, layer, which, tile, x, n_rows, room.x, False)


@kernel
def widen_tiles(first: int, last: int, model: Model, layer: int, room: Room, n_rows: int) -> None:
    """hidden = what the MLP's nonlinearity makes of W norm(x)."""
    for tile in range(first, last):  # one matrix after the other: memory gives most when it is read on and on
        product(model, layer, UP, tile, room.normed_mlp, n_rows, room.up, True)
    if model.mlp == GATED:
        for tile in range(first, last):
            product(model, layer, GATE, tile, room.normed_mlp, n_rows, room.gate, True)
    for tile in range(first, last):
        for row in range(n_rows):
            up = floats_at(place(room.up, row, LANES * tile))
            if model.mlp == GATED:
                put_group(room.hidden, row, tile, silu(floats_at(place(room.gate, row, LANES * tile))) * up)
            elif model.mlp == TANH:
                put_group(room.hidden, row, tile, gelu_tanh(up))
            else:
                put_group(room.hidden, row, tile, gelu_exact(up))


@kernel
def finish_rows(first: int, last: int, model: Model, rows: Rows, room: Room) -> None:
    """The last norm, of the rows whose logits are wanted."""
    for index in range(first, last):
        norm_row(model, model.n_layers, FINAL, place(room.x, number(rows.wanted, index), 0), room.last, index)


@kernel
def unembed_tiles(first: int, last: int, model: Model, room: Room, n_rows: int) -> None:
    """logits = W norm(x)."""
    for tile in range(first, last):
        product(model, model.n_layers, UNEMBED, tile, room.last, n_rows, room.logits, True)


# --- the whole ---


@spliced
def forward(thread: int, call: int) -> None:
    """One pass, by all threads of a team: keys and values into the memories, wanted logits into room.logits.

    call: the address of a record of a Call.
    """
    told = the_call(call)
    counters, n_threads, n_spans = told.counters, told.n_threads, told.n_spans
    model, rows, room = the_model(told.model), the_rows(told.rows), the_room(told.room)
    n_rows, size = rows.n, model.head_size
    queries, keys = -(-model.n_heads * size // LANES), -(-model.n_kv_heads * size // LANES)
    out, wide = room.x.columns // LANES, room.hidden.groups
    stage = share(counters, 1, n_rows, n_threads, begin_rows, (model, rows, room))
    for layer in range(model.n_layers):
        stage = share(counters, stage, n_rows, n_threads, read_rows, (model, layer, ATTENTION_NORM, room))
        tiles = queries + 2 * keys
        stage = share(counters, stage, tiles, n_threads, project_tiles, (model, layer, room, n_rows))
        stage = share(counters, stage, n_rows * model.n_kv_heads, n_threads, remember_heads, (model, layer, rows, room))
        if layer == model.n_layers - 1 and rows.n_wanted == 0:
            break  # nobody reads on: keys and values are all that is left of this pass
        for start in range(0, n_rows, ATTENDING):
            n = min(ATTENDING, n_rows - start)
            pieces = n * model.n_kv_heads * n_spans
            what = (model, layer, rows, room, start, n_spans, thread)
            stage = share(counters, stage, pieces, n_threads, attend_spans, what)
            pieces = n * -(-model.n_heads // heads_together(model))
            stage = share(counters, stage, pieces, n_threads, gather_heads, (model, layer, rows, room, start, n_spans))
        what_back = (model, layer, OUTPUT, room.mixed, room, n_rows)
        stage = share(counters, stage, out, n_threads, give_back_tiles, what_back)
        if not model.parallel:
            stage = share(counters, stage, n_rows, n_threads, read_rows, (model, layer, MLP_NORM, room))
        stage = share(counters, stage, wide, n_threads, widen_tiles, (model, layer, room, n_rows))
        what_back = (model, layer, DOWN, room.hidden, room, n_rows)
        stage = share(counters, stage, out, n_threads, give_back_tiles, what_back)
    wanted, tiles = rows.n_wanted, -(-model.vocab // LANES)
    stage = share(counters, stage, wanted, n_threads, finish_rows, (model, rows, room))
    share(counters, stage, tiles, n_threads, unembed_tiles, (model, room, wanted))


take_part = shared(forward)
