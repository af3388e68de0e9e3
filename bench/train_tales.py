"""Trains the bundled model, in a shape and on a batch that are chosen for a GPU.

    python bench/train_tales.py prepare FOLDER TEXT... --heldout FILE     its text as tokens; no GPU is needed for it
    python bench/train_tales.py train FOLDER --minutes 9 [--device cuda]  makes FOLDER a finished run
    python bench/train_tales.py pace FOLDER [--device cuda]               seconds of a step, of several batches

`nextword train` plans for what it finds; here the size is given by what a package may weigh (25 MB, most weights in 4
bits) and the length by how long a GPU can be had. `python bench/bundle.py FOLDER HELDOUT` puts the result into the
package.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from nextword.optimize.evaluate import evaluate
from nextword.optimize.forecast import forecast_bits_per_byte
from nextword.optimize.preflight import measure_pace, measure_peak, operations_per_step, pick_dtype
from nextword.optimize.recipe import Recipe, standard
from nextword.train.plan import Budget, plan
from nextword.train.prepare import open_corpus, prepare
from nextword.train.run import begin, resume

WIDTH, LAYERS, CONTEXT, ROWS = 512, 10, 1024, 128
DROPOUT, WEIGHT_DECAY = 0.1, 0.04  # the text is read more than ten times


def recipe_for(vocab: int, device: str) -> Recipe:
    """Its steps are planned later."""
    architecture = standard(WIDTH, LAYERS, vocab, CONTEXT)
    recipe = Recipe(architecture, 1000, ROWS, dtype=pick_dtype(device), compiled=True)
    return replace(recipe, dropout=DROPOUT, weight_decay=WEIGHT_DECAY)


def train(folder: Path, minutes: float, device: str) -> None:
    began = time.monotonic()
    corpus = open_corpus(folder)
    assert corpus.heldout is not None
    budget, recipe = Budget(minutes=minutes), recipe_for(corpus.text.vocab, device)
    recipe, forecast = plan(corpus, budget, None, recipe.seed, device, began, print, recipe=recipe)
    read = recipe.steps * recipe.batch_size * recipe.architecture.context
    bits = forecast_bits_per_byte(corpus.text, corpus.heldout, read)
    forecast = replace(forecast, bits_per_byte=bits)
    print(f"Forecast: {bits} bits per byte.", flush=True)
    facts = json.loads((folder / "facts.json").read_text())
    begin(folder, recipe, budget, corpus, facts, forecast, time.monotonic() - began, device)
    run = resume(folder, device=device)
    for event in run.train():
        record = event.record()
        if not record.keys() & {"loss", "norms"}:
            print(record, flush=True)
    found = evaluate(run.trainer.model(), corpus.heldout)
    print(f"float32, all of the held-out text: {found.bits_per_byte:.4f} bits per byte", flush=True)


def paces(folder: Path, device: str) -> None:
    corpus = open_corpus(folder)
    recipe = recipe_for(corpus.text.vocab, device)
    peak = measure_peak(recipe.dtype, torch.device(device))
    print(f"peak {peak / 1e12:.0f} TFLOP/s")
    for each in (recipe, replace(recipe, dropout=0.0), replace(recipe, batch_size=ROWS // 2)):
        began = time.monotonic()
        pace = measure_pace(each, corpus.text, device, 3.0)
        mfu = operations_per_step(each) / pace / peak
        took = time.monotonic() - began
        print(
            f"{each.batch_size} rows, dropout {each.dropout}: {pace:.4f} s, "
            f"{each.batch_size * CONTEXT / pace:,.0f} tokens/s, {mfu:.0%} MFU, {took:.0f} s in all",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "train", "pace"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", nargs="*")
    parser.add_argument("--heldout")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if given.what == "prepare":
        _, facts = prepare(given.text, [given.heldout], given.folder, print)
        (given.folder / "facts.json").write_text(json.dumps(facts))
    elif given.what == "train":
        train(given.folder, given.minutes, given.device)
    else:
        paces(given.folder, given.device)


if __name__ == "__main__":
    main()
