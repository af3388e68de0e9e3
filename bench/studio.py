"""The page in a real Chromium on this machine: times to first paint, to the distribution, and to a slider's bars.

    python bench/studio.py [--model tales] [--rounds 20] [--json]

Each round loads the page in a fresh browser context, so nothing is cached. "Painted" is the browser's own first
contentful paint; "distribution" is when the first bars stand in the document, after two requests; a slider is moved
ten times a round, from its event to the frame after the bars have changed. Medians and worst.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import sync_playwright

_DISTRIBUTION = """() => new Promise((resolve) => {
  const drawn = () => document.querySelector("nw-distribution li");
  const look = () => (drawn() ? resolve(performance.now()) : requestAnimationFrame(look));
  look();
})"""
_PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
_MOVED = """(value) => new Promise((resolve) => {
  const distribution = document.querySelector("nw-distribution"), began = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - began));
  }).observe(distribution, {childList: true});
  const slider = document.querySelector("#temperature");
  slider.value = value;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""


@contextmanager
def server(model: str) -> Iterator[str]:
    """nextword's server on a free port: its address."""
    command = [sys.executable, "-m", "nextword", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address is not None
    try:
        yield address[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def measure(address: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds, all of them."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    taken: dict[str, list[float]] = {"painted": [], "distribution": [], "slider": []}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for number in range(rounds + 1):
            page: Any = browser.new_context().new_page()
            page.goto(address)
            shown, painted = page.evaluate(_DISTRIBUTION), page.evaluate(_PAINTED)
            moved = [page.evaluate(_MOVED, 0.5 + at / 10) for at in range(10)]
            page.context.close()
            if number:  # the first round warms up
                taken["painted"].append(painted)
                taken["distribution"].append(shown)
                taken["slider"] += moved
        browser.close()
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tales")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with server(given.model) as address:
        taken = measure(address, given.rounds)
    if given.json:
        print(json.dumps(taken))
        return
    print(f"| {given.model}, ms | median | worst |\n| --- | --- | --- |")
    for name, values in taken.items():
        print(f"| {name} | {statistics.median(values):.0f} | {max(values):.0f} |")


if __name__ == "__main__":
    main()
