"""Before the first step: how large a model fits the time, and how fast this machine trains it.

One dial, the number of layers, sets the whole shape (`shape`). How many layers fit a budget of seconds follows from
the arithmetic that the machine does in it (`n_layers_for`): the best number of weights grows with the square root of
the operations C (Hoffmann et al., 2022), here about 0.8 sqrt(C / 6) in the blocks, which was found on short runs. The
machine's speed is not looked up but measured, by trainers that are thrown away (`measure_pace`).
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from math import sqrt
from statistics import median
from typing import Literal

import torch

from nextword.model.architecture import Architecture
from nextword.optimize.batches import Text
from nextword.optimize.recipe import Recipe, initial_weights, standard
from nextword.optimize.trainer import Trainer, can_compile

FEWEST_LAYERS, MOST_LAYERS = 2, 14
_WEIGHTS_PER_ROOT = 0.8  # weights in blocks / sqrt(operations / 6)
_WEIGHTS_PER_TOKEN = 8  # with more weights in blocks, a text that is read often is learned by heart
_BATCHES = ((5, (64, 16)), (6, (256, 8)), (10, (256, 16)), (1000, (512, 32)))  # context and rows below so many layers
_GPU_TOKENS = 131_072  # of a batch on a GPU: with half as many an H200 reads a tenth fewer tokens a second
_LEAST_STEPS = 50  # for each reading of a text
_COMPILE_FROM = 240  # seconds: below, compiling takes longer than it saves on a CPU
_TRIAL_STEPS = 24
_PEAK_SIZE, _PEAK_TRIALS = {"cpu": 1024, "cuda": 8192}, 8


def shape(n_layers: int, vocab: int, n_tokens: int) -> tuple[Architecture, int]:
    """The architecture with so many layers, and the rows of a batch; for a text of `n_tokens`.

    The context is halved until the text has more tokens than it.
    """
    width = 64 * max(2, n_layers - 2)
    context, rows = next(batch for limit, batch in _BATCHES if n_layers < limit)
    while context >= n_tokens and context > 8:
        context //= 2
    return standard(width, n_layers, vocab, context), rows


def rows_for(device: str, context: int, rows: int, n_tokens: int) -> int:
    """How many rows a batch has on this device: `rows`, or on a GPU, which so few leave idle, many more."""
    if device != "cuda":
        return rows
    return max(rows, min(_GPU_TOKENS, n_tokens // _LEAST_STEPS) // context)


def n_layers_for(operations: float, vocab: int, n_tokens: int) -> int:
    """How many layers a model has that so many operations train well, on a text of so many tokens."""
    best = min(_WEIGHTS_PER_ROOT * sqrt(operations / 6), n_tokens * _WEIGHTS_PER_TOKEN)
    deeper = (n for n in range(FEWEST_LAYERS, MOST_LAYERS) if _weights_in_blocks(n + 1, vocab, n_tokens) > best)
    return next(deeper, MOST_LAYERS)


def _weights_in_blocks(n_layers: int, vocab: int, n_tokens: int) -> int:
    a, _ = shape(n_layers, vocab, n_tokens)
    return a.n_parameters - a.vocab * a.width


def pick_dtype(device: str) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device multiplies it faster than float32."""
    if device == "cpu":
        able = torch.cpu.get_capabilities()
        fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    else:
        fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def pays_to_compile(seconds: float, device: str) -> bool:
    """Whether a run of so many seconds is over sooner if it is compiled first."""
    return seconds >= _COMPILE_FROM and can_compile(torch.device(device))


def measure_pace(recipe: Recipe, text: Text, device: str, seconds: float) -> float:
    """Seconds that this machine takes for a step of the recipe: the median of those that fit into about `seconds`.

    The first, which sets things up, counts for neither. The weights learned on the way are thrown away.
    """
    taken = []
    weights = initial_weights(recipe.architecture, recipe.seed)  # a start from pairs is as fast, and takes a second
    for progress in islice(Trainer(recipe, text, weights=weights, device=device), _TRIAL_STEPS):
        taken.append(progress.seconds)
        if len(taken) > 2 and sum(taken[1:]) > seconds:
            break
    return median(taken[1:] or taken)


def peak_memory(device: str) -> int | None:
    """The most bytes of memory this process has held so far, of the device it trains on; None where that is not told.

    After a trial that is what the run will hold, too: a step needs the same every time.
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def operations_per_step(recipe: Recipe) -> float:
    """Multiplications and additions of a forward and backward pass: 6 for each weight of a matrix and token.

    An embedding that is only looked up does not count, nor do attention's products of tokens with tokens.
    """
    a = recipe.architecture
    looked_up = 0 if a.tied else a.vocab * a.width
    return 6.0 * (a.n_parameters - looked_up) * recipe.rows * a.context


def measure_peak(dtype: str, device: torch.device) -> float:
    """Multiplications and additions a second that the device does in large matrices of this type, at its best."""
    size = _PEAK_SIZE.get(device.type, 4096)
    matrix = torch.full((size, size), 0.01, dtype=getattr(torch, dtype), device=device)
    seconds = []
    for _ in range(_PEAK_TRIALS):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the product
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)
