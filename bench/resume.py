"""Kill a run at random moments, resume it each time, and compare it with the run that was never interrupted.

    python bench/resume.py [TEXT] [--kills 20] [--steps 600] [--depth 2] [--threads 2] [--seed 0]

Both runs are copies of one that was prepared but has not begun. The moments are spread over the run: each is a little
after a step that was drawn; every fourth falls into the first seconds of a process, while it starts, and every fourth
into the tenth of a second in which the next checkpoint and the page are written. The process cannot catch SIGKILL.
Compared are every bit of the weights, and the log without its timings. Exits with 1 if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nextword.parameters.run_folder import RunFolder

STARTING = 4.0  # seconds: in which a process starts
AFTER = 0.3  # seconds: after a step, at most
WRITING = 0.1  # seconds: in which a checkpoint is written
TIMINGS = ("seconds", "tokens_per_second", "mfu")
NOT_COMPARED = {"resumed", "sample"}  # samples come by the clock


def train(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nextword", "train", "--json", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prepare(folder: Path, *words: object) -> None:
    """A run before its first step."""
    with train(*words, "--out", folder) as process:
        while process.poll() is None and not RunFolder(folder).steps():
            time.sleep(0.01)
        process.kill()
    for step in RunFolder(folder).steps()[1:]:
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")


def finish(folder: Path) -> float:
    """Go on to the end; seconds it took."""
    began = time.monotonic()
    with train("--resume", folder) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    return time.monotonic() - began


def kill_after(folder: Path, step: int, seconds: float) -> str:
    """Resume, wait until `step` is printed and `seconds` more have passed, and kill. Returns the moment in words."""
    seen = 0
    with train("--resume", folder) as process:
        assert process.stdout is not None
        while seen < step and (line := process.stdout.readline()):
            seen = json.loads(line).get("step", seen)
        time.sleep(seconds)
        process.kill()
    assert process.returncode == -9, "the run ended before it was killed; give it more --steps"
    return f"{seconds:.2f} s after step {step}" if step else f"{seconds:.2f} s after its start"


def log(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in each.items() if k not in TIMINGS}
        for each in RunFolder(folder).records()
        if not NOT_COMPARED & each.keys()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="world:pantry,mb=0.05")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    draw = random.Random(given.seed)
    steps = sorted(draw.sample(range(1, given.steps - 20), given.kills))
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        prepare(whole, given.text, "--steps", given.steps, "--depth", given.depth, "--seed", given.seed)
        shutil.copytree(whole, killed)
        print(f"uninterrupted: {given.steps} steps in {finish(whole):.1f} s, {given.threads} threads", flush=True)
        for number, step in enumerate(steps, 1):
            kinds = {0: (0, STARTING), 2: (min(2 * RunFolder(killed).steps()[-1] or 1, step), WRITING)}
            at, within = kinds.get(number % 4, (step, AFTER))
            what = kill_after(killed, at, draw.uniform(0, within))
            left = "".join(f", left {path.name}" for path in killed.rglob("*.tmp"))
            print(f"{number}: killed {what}; last checkpoint {RunFolder(killed).steps()[-1]}{left}", flush=True)
        finish(killed)
        files = [(run / "model.safetensors").read_bytes() for run in (whole, killed)]
        same = files[0] == files[1] and log(whole) == log(killed)
        print(f"weights ({len(files[0]):,} bytes) and log: {'equal' if same else 'DIFFERENT'}")
        sys.exit(not same)


if __name__ == "__main__":
    main()
