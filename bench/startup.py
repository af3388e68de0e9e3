"""The time until nextword does anything, and the speed at which the README's first command then generates.

    python bench/startup.py [--runs 10]

Goals: `import nextword` under 0.3 s, `nextword --help` under 0.5 s, the first token of `nextword generate` (once its
kernels are compiled) under 1 s, and 800 tokens/s of `tales` after it. Wall times of whole processes; Python's own
start, and that of the compiler's package, are shown for comparison. smollm2 is measured if it was pulled. Processes
take turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time

from nextword.parameters.pull import find_pulled

PROCESSES = {
    "python -c pass": ["-c", "pass"],
    "import nextword": ["-c", "import nextword"],
    "nextword --help": ["-m", "nextword", "--help"],
    "import numpy, numba": ["-c", "import numpy, numba"],
}
FIRST_COMMAND = ["-m", "nextword", "generate", "Once upon a time"]
GENERATE = [*FIRST_COMMAND, "--max-tokens", "2", "--device", "cpu"]
FIRST_TOKENS = {"first token of tales": GENERATE, "first token of smollm2": [*GENERATE, "--model", "smollm2"]}


def seconds(words: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def seconds_to_output(words: list[str]) -> float:
    """Wall time from the start of a process to its first byte of output."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        taken = time.perf_counter() - began
        process.communicate()
    assert process.returncode == 0
    return taken


def tokens_per_second(seed: int) -> float:
    """The speed that the README's first command reports, which does not count the first token."""
    words = [*FIRST_COMMAND, "--seed", str(seed)]
    notes = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stderr
    found = re.search(r"([\d,.]+) tokens/s", notes)
    assert found is not None, notes
    return float(found[1].replace(",", ""))


def main() -> None:
    """Print a Markdown table; one run of each, not counted, warms the disk's cache and compiles what is compiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    works = {name: (seconds, words) for name, words in PROCESSES.items()}
    works |= {name: (seconds_to_output, words) for name, words in FIRST_TOKENS.items()}
    if find_pulled("smollm2") is None:
        del works["first token of smollm2"]
    taken: dict[str, list[float]] = {name: [] for name in works}
    speeds = []
    for run in range(runs + 1):
        for name, (measure, words) in works.items():
            time_taken = measure(words)
            if run:
                taken[name].append(time_taken)
        if run:
            speeds.append(tokens_per_second(seed=run))
    print("| process | median | slowest |\n| --- | --- | --- |")
    for name, times in taken.items():
        print(f"| `{name}` | {statistics.median(times):.3f} s | {max(times):.3f} s |")
    median, slowest, fastest = statistics.median(speeds), min(speeds), max(speeds)
    print(f'\n`nextword generate "Once upon a time"`: {median:.0f} tokens/s ({slowest:.0f} to {fastest:.0f})')


if __name__ == "__main__":
    main()
