"""How long one waits before nextword does anything: the median wall time of whole processes.

    python bench/startup.py

Goals: `import nextword` under 0.3 s, `nextword --help` under 0.5 s. Python's own start is shown for comparison.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 10
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import nextword": ["-c", "import nextword"],
    "nextword --help": ["-m", "nextword", "--help"],
}


def seconds(words: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print a Markdown table; one run of each, not counted, warms the disk's cache and compiles the modules."""
    print("| process | median | slowest |\n| --- | --- | --- |")
    for name, words in COMMANDS.items():
        seconds(words)
        times = [seconds(words) for _ in range(RUNS)]
        print(f"| `{name}` | {statistics.median(times):.3f} s | {max(times):.3f} s |")


if __name__ == "__main__":
    main()
