"""Before the first step: the size of the model that fits a budget, and the speed of this machine.

One dial, the number of layers, sets the whole shape (`shape`). The number of layers follows from the compute budget C
in FLOPs (`n_layers_for`): the optimal number of weights grows with the square root of C (Hoffmann et al., 2022), here
about 0.8 sqrt(C / 6) in the blocks, a factor found on short runs. The speed of the machine is measured by a few steps
of a trainer that is thrown away (`measure_pace`).
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
from nextword.optimize.initialize import initial_weights
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Trainer, can_compile

FEWEST_LAYERS, MOST_LAYERS = 2, 14
_WEIGHTS_PER_ROOT = 0.8  # weights in blocks / sqrt(FLOPs / 6)
_WEIGHTS_PER_TOKEN = 8  # weights in blocks for each token of the text, at most: larger models memorize it
_BATCHES = ((5, (64, 16)), (6, (256, 8)), (10, (256, 16)), (1000, (512, 32)))  # below n layers: (context, batch size)
_GPU_TOKENS = 131_072  # tokens: of a batch on a GPU; with half of them an H200 reads a tenth fewer tokens a second
_LEAST_STEPS = 50  # steps: of an epoch at least, on a GPU
_COMPILE_FROM = 240  # seconds: of a run; in shorter ones compiling takes longer than it saves on a CPU
_TRIAL_STEPS = 24  # steps: of a measurement of the pace at most
_PEAK_SIZE, _PEAK_TRIALS = {"cpu": 1024, "cuda": 8192}, 8  # rows and columns: of the matrices; products that are timed


def shape(n_layers: int, vocab: int, n_tokens: int) -> tuple[Architecture, int]:
    """The architecture of a model of `n_layers` layers, and its batch size on a CPU.

    Args:
        n_layers: Blocks; the width and the context follow.
        vocab: Number of tokens.
        n_tokens: Of the text; the context is halved until the text is longer.
    """
    width = 64 * max(2, n_layers - 2)
    context, batch_size = next(batch for limit, batch in _BATCHES if n_layers < limit)
    while context >= n_tokens and context > 8:
        context //= 2
    return standard(width, n_layers, vocab, context), batch_size


def batch_size_for(device: str, context: int, batch_size: int, n_tokens: int) -> int:
    """Batch size in sequences on a device.

    On a CPU it is `batch_size`. On a GPU it is raised until a step reads 131,072 tokens, but not beyond the size at
    which one epoch takes fewer than 50 steps.

    Args:
        device: "cpu", "cuda" or "mps".
        context: Tokens of a sequence.
        batch_size: Sequences, on a CPU.
        n_tokens: Of the text.

    >>> batch_size_for("cpu", 512, 32, 10**8), batch_size_for("cuda", 512, 32, 10**8)
    (32, 256)
    """
    if device != "cuda":
        return batch_size
    return max(batch_size, min(_GPU_TOKENS, n_tokens // _LEAST_STEPS) // context)


def n_layers_for(operations: float, vocab: int, n_tokens: int) -> int:
    """Number of layers of the compute-optimal model (Hoffmann et al., 2022).

    Args:
        operations: Compute budget in FLOPs.
        vocab: Number of tokens.
        n_tokens: Of the text; more than eight weights for each token would memorize it.
    """
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
    """Whether a run of `seconds` seconds is over sooner if the model is compiled first."""
    return seconds >= _COMPILE_FROM and can_compile(torch.device(device))


def measure_pace(recipe: Recipe, text: Text, device: str, seconds: float) -> float:
    """Seconds per step of a recipe on this machine: the median of a few steps, whose weights are thrown away.

    Args:
        recipe: Whose steps are timed.
        text: That the steps read.
        device: That the steps run on.
        seconds: To measure for, about; the first step, which allocates and compiles, is not counted.
    """
    taken = []
    weights = initial_weights(
        recipe.architecture, recipe.seed
    )  # steps after a start from bigrams are as fast, and that start takes a second
    for progress in islice(Trainer(recipe, text, weights=weights, device=device), _TRIAL_STEPS):
        taken.append(progress.seconds)
        if len(taken) > 2 and sum(taken[1:]) > seconds:
            break
    return median(taken[1:] or taken)


def peak_memory(device: str) -> int | None:
    """Peak memory of this process so far in bytes, of the device that trains; None where the system does not tell.

    After a trial this is the peak of the run, too: every step needs the same.
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
    """FLOPs of a step: 6 for each weight of a matrix and token (Kaplan et al., 2020).

    An embedding that is only looked up does not count, nor do attention's products of tokens with tokens.
    """
    a = recipe.architecture
    looked_up = 0 if a.tied else a.vocab * a.width
    return 6.0 * (a.n_parameters - looked_up) * recipe.batch_size * a.context


def measure_peak(dtype: str, device: torch.device) -> float:
    """FLOP/s of the device in products of large matrices of this dtype, the best of a few: the peak of MFU."""
    size = _PEAK_SIZE.get(device.type, 4096)
    matrix = torch.full((size, size), 0.01, dtype=getattr(torch, dtype), device=device)
    seconds = []
    for _ in range(_PEAK_TRIALS):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the product
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)
