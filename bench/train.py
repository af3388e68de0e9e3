"""The speed and the loss of training, against a plain fp32 AdamW GPT of the same size (what nanoGPT does).

    python bench/train.py [--device cuda] [--sizes 10.7M] [--rows 16] [--rounds 7] [--only NAME ...]

The baseline is written here: learned positions, LayerNorm, GELU of four times the width, torch's fused attention, all
logits at once, one AdamW for everything, float32, nothing compiled. Ours is `nextword.optimize.trainer` in several
settings; `ours` is the one that a long run takes. All take steps over the same tokens, in turns; a round is one turn of
each, and printed are medians over rounds. MFU counts 6 operations for each weight and token and 12 for each layer,
width and position of the context (Chowdhery et al., 2022, appendix B), against the device's published bfloat16 peak
where it is known, else against the fastest matrix product that was measured.

    python bench/train.py --to-loss 3.5 --text FILE

Both are trained on the text until the mean loss of 20 steps is at most that (nats a token, the same tokens for both).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from nextword.encode.train import train_bpe
from nextword.optimize.batches import batch
from nextword.optimize.order import Order
from nextword.optimize.preflight import measure_peak, pick_dtype
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Trainer

# Layers, width, vocabulary, context. The first is nanoGPT's for tinyshakespeare, the last GPT-2's smallest.
SIZES = {"10.7M": (6, 384, 65, 256), "50M": (8, 512, 50304, 1024), "124M": (12, 768, 50304, 1024)}
PUBLISHED = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bfloat16, dense, from NVIDIA's data sheets


@dataclass(frozen=True)
class Text:
    """As `nextword.optimize.batches.Text`."""

    tokens: npt.NDArray[np.integer[Any]]
    starts: npt.NDArray[np.int64]
    mask: None
    token_bytes: npt.NDArray[np.integer[Any]]


class Plain(nn.Module):
    """A GPT as most people write it."""

    def __init__(self, n_layers: int, width: int, vocab: int, context: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, width // 64) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("output.weight", "down.weight")):  # what is added to the residual
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers))

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.embed.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.output(y)
        added: torch.Tensor = self.down(F.gelu(self.up(self.second(x)), approximate="tanh"))
        return x + added


def plain_steps(size: tuple[int, int, int, int], rows: int, steps: int, text: Text, device: str) -> Iterator[float]:
    """The loss of each step, in nats a token."""
    torch.manual_seed(0)
    model = Plain(*size).to(device)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    order = Order(len(text.tokens), size[3], rows, seed=0)
    for step in range(steps):
        for group in optimizer.param_groups:  # warm-up, then a cosine to a tenth
            cosine = 0.55 + 0.45 * math.cos(math.pi * step / steps)
            group["lr"] = 1e-3 * min(1.0, (step + 1) / max(0.02 * steps, 1)) * cosine
        read = batch(text, order, step)
        loss = model(read.ids.to(device), read.targets.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())


def our_steps(recipe: Recipe, text: Text, device: str) -> Iterator[float]:
    return (progress.loss for progress in Trainer(recipe, text, device=device))


def settings(size: tuple[int, int, int, int], rows: int, steps: int, device: str) -> dict[str, Recipe]:
    """Ours in several settings; the first is that of a long run."""
    n_layers, width, vocab, context = size
    best = Recipe(standard(width, n_layers, vocab, context), steps, rows, dtype=pick_dtype(device), compiled=True)
    return {
        "ours": best,
        "ours, not compiled": replace(best, compiled=False),
        "ours, float32": replace(best, dtype="float32"),
        "ours, float32, not compiled": replace(best, dtype="float32", compiled=False),
    }


def speeds(size_name: str, given: argparse.Namespace) -> None:
    size = SIZES[size_name]
    n_layers, width, vocab, context = size
    tokens = np.random.default_rng(0).zipf(1.3, 200 * context) % vocab
    text = Text(tokens.astype(np.uint16), np.array([0, len(tokens)]), None, np.ones(vocab, np.int64))
    ours = settings(size, given.rows, 10_000, given.device)
    runs = {"plain": plain_steps(size, given.rows, 10_000, text, given.device)}
    for name, recipe in ours.items():
        if not given.only or name in given.only:
            runs[name] = our_steps(recipe, text, given.device)
    first = {name: seconds_of(run, 2, given.device) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            taken[name].append(seconds_of(run, given.steps, given.device) / given.steps)
    per_step = given.rows * context
    peak, whose = peak_of(given.device)
    weights = {"plain": sum(p.numel() for p in Plain(*size).parameters())}
    weights |= {name: ours[name].architecture.n_parameters for name in ours}
    print(f"\n{size_name}: {n_layers} layers of {width}, {given.rows} x {context} tokens a step, {device_name(given)}")
    print(f"peak: {peak / 1e12:.2f} TFLOP/s ({whose})\n")
    print("| | parameters | tokens/s | times plain | MFU | first two steps, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in runs:
        ratio = statistics.median(a / b for a, b in zip(taken["plain"], taken[name], strict=True))
        speed = per_step / statistics.median(taken[name])
        operations = 6 * weights[name] + 12 * n_layers * width * context
        mfu = operations * speed / peak
        print(
            f"| {name} | {weights[name]:,} | {speed:,.0f} | {ratio:.2f} | {mfu:.0%} | {first[name]:.1f} |", flush=True
        )


def to_loss(given: argparse.Namespace) -> None:
    """Print the seconds and steps of both until their loss is low enough; compiling counts."""
    n_layers, width, _, context = SIZES[given.sizes[0]]
    written = Path(given.text).read_text(encoding="utf-8")
    tokenizer = train_bpe([written], 1024)
    tokens = np.array(tokenizer.encode(written), np.uint16)
    text = Text(tokens, np.array([0, len(tokens)]), None, np.ones(tokenizer.vocab_size, np.int64))
    size = (n_layers, width, tokenizer.vocab_size, context)
    ours = settings(size, given.rows, given.most, given.device)["ours, not compiled"]
    for name, run in (
        ("plain", plain_steps(size, given.rows, given.most, text, given.device)),
        ("ours", our_steps(ours, text, given.device)),
    ):
        began, losses = time.perf_counter(), []
        for loss in run:
            losses.append(loss)
            if statistics.fmean(losses[-20:]) <= given.to_loss and len(losses) >= 20:
                break
        reached = f"{statistics.fmean(losses[-20:]):.3f} after {len(losses)} steps"
        print(f"{name}: {reached}, {time.perf_counter() - began:.1f} s", flush=True)


def seconds_of(run: Iterator[float], steps: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        next(run)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_of(device: str) -> tuple[float, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    for known, peak in PUBLISHED.items():
        if known in name:
            return peak, "published"
    dtype = pick_dtype(device)
    return measure_peak(dtype, torch.device(device)), f"the fastest matrix product of {dtype} that was measured"


def device_name(given: argparse.Namespace) -> str:
    return torch.cuda.get_device_name() if given.device == "cuda" else f"{torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["10.7M"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="of each in a round")
    parser.add_argument("--only", nargs="*", help="settings to measure beside plain")
    parser.add_argument("--to-loss", type=float)
    parser.add_argument("--text")
    parser.add_argument("--most", type=int, default=2000, help="steps to a loss, at most")
    given = parser.parse_args()
    if given.to_loss is not None:
        to_loss(given)
        return
    for size in given.sizes:
        speeds(size, given)


if __name__ == "__main__":
    main()
