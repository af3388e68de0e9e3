"""The preflight's forecast of a run beside its result: bits per byte, duration and memory.

    python bench/forecast.py TEXT... [--minutes 0.5] [--steps 300] [--depth 3]

Each text is trained on twice, by time and by steps, with `nextword train` as a user calls it. A TEXT may be anything
that it takes, or `library`: the modules of Python's own standard library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from nextword.parameters.run_folder import RunFolder


def library(folder: Path) -> Path:
    """The standard library as one record a module, without its tests."""
    path, root = folder / "library.jsonl", Path(sysconfig.get_path("stdlib"))
    with path.open("w", encoding="utf-8") as file:
        for module in sorted(root.rglob("*.py")):
            if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(module.relative_to(root).parts):
                text = module.read_text(encoding="utf-8")
                file.write(json.dumps({"text": text, "title": str(module.relative_to(root))}) + "\n")
    return path


def run(text: str, out: Path, *words: str) -> dict[str, Any]:
    """The card of a run, with the seconds of the whole process."""
    began = time.monotonic()
    command = [sys.executable, "-m", "nextword", "train", text, "--out", str(out), *words]
    subprocess.run(command, check=True, capture_output=True)
    return {**RunFolder(out).card().values, "wall": time.monotonic() - began}


def beside(forecast: float | None, result: float | None, scale: float = 1.0, digits: int = 2) -> str:
    """Table cells: forecast, result and their difference as a percentage of the result."""
    if not forecast or not result:
        return "not known | | "
    return f"{forecast / scale:.{digits}f} | {result / scale:.{digits}f} | {forecast / result - 1:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--minutes", default="0.5")
    parser.add_argument("--steps", default="300")
    parser.add_argument("--depth", default="3")
    given = parser.parse_args()
    heads = ["run", "layers, steps"]
    for what in ("bits per byte", "seconds", "GB of memory"):
        heads += [f"{what}: forecast", "result", "off"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(given.texts):
            path = str(library(folder)) if text == "library" else text
            for words in (["--minutes", given.minutes], ["--steps", given.steps, "--depth", given.depth]):
                card = run(path, folder / f"{number}{words[0]}", *words)
                forecast, result = card["forecast"], card["results"]
                cells = (
                    f"{Path(text).name} {' '.join(words)}",
                    f"{card['recipe']['architecture']['n_layers']}, {result['steps']}",
                    beside(forecast["bits_per_byte"], result["bits_per_byte"], digits=3),
                    beside(forecast["seconds"], card["wall"], digits=1),
                    beside(forecast["memory_bytes"], result["memory_bytes"], scale=1e9),
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
