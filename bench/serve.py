"""The server against llama.cpp's, and against the bare engine: streams at once, first token, and a storm of clients.

    python bench/serve.py [--llama-server PATH] [--rounds 5] [--json]
    python bench/serve.py --storm 60                 200 clients connecting, streaming and vanishing at random

SmolLM2-135M in int8, llama.cpp's server on a Q8_0 file of the same weights, both with 8 places and two threads; they
take turns within a round. The client is the same for both: bare sockets that read server-sent events. Printed are
medians over the rounds, and medians of the ratios of each round. The bare engine is what the server's own process
would do without a server: read a token, draw the next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import nextword
from nextword.parameters.export import export_gguf
from nextword.parameters.open import open_stored
from nextword.sample.generation import SamplingLoop
from nextword.sample.settings import Sampling

MODEL, STREAMS, TOKENS = "smollm2", 8, 64
SETTINGS = {"temperature": 0.7, "min_p": 0.1, "top_k": 0, "top_p": 1.0}
SUBJECTS = "a king|a cat|the sea|an old clock|the moon|a baker|two brothers|a river".split("|")


class _Listener(asyncio.Protocol):
    """Notes the time of each event, and no more: a client that costs time would slow what it measures."""

    def __init__(self, most: int | None) -> None:
        self.times: list[float] = []
        self.answer, self.ended = b"", asyncio.get_running_loop().create_future()
        self._most = most

    def data_received(self, data: bytes) -> None:
        self.times += [time.perf_counter()] * data.count(b"data: {")
        self.answer += data
        refused = b"\r\n\r\n" in self.answer and not self.answer.startswith(b"HTTP/1.1 200")
        enough = self._most is not None and len(self.times) >= self._most
        if refused or enough or b"data: [DONE]" in data:
            self.connection_lost(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def stream(port: int, body: dict[str, Any], most: int | None = None) -> list[float]:
    """When each event with a token came, in seconds after the request; leaves after `most` of them."""
    data = json.dumps({**body, "stream": True}).encode()
    began = time.perf_counter()
    wire, heard = await asyncio.get_running_loop().create_connection(lambda: _Listener(most), "127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    wire.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)  # type: ignore[attr-defined]
    try:
        if most != 0:
            await heard.ended
    finally:
        wire.close()
    if heard.answer and not heard.answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionRefusedError(int(heard.answer.split()[1]))
    if b'data: {"error"' in heard.answer:
        raise ConnectionAbortedError
    return [each - began for each in heard.times]


def body_of(prompt: str, seed: int, stop_bias: dict[str, Any]) -> dict[str, Any]:
    """A request for exactly TOKENS tokens."""
    return {"prompt": prompt, "max_tokens": TOKENS, "seed": seed, **SETTINGS, **stop_bias}


class Server:
    """A server under test."""

    def __init__(self, process: subprocess.Popen[str], port: int, stop_bias: dict[str, Any]) -> None:
        self.process, self.port, self._stop_bias = process, port, stop_bias

    def total(self, salt: int) -> float:
        """Tokens a second of all streams together, from the first request to the last token."""

        async def all_at_once() -> None:
            bodies = [
                body_of(f"Number {salt}. Once upon a time there was {SUBJECTS[i]}", i, self._stop_bias)
                for i in range(STREAMS)
            ]
            got = await asyncio.gather(*(stream(self.port, body) for body in bodies))
            assert min(map(len, got)) >= TOKENS - 4, "a text was cut short"

        began = time.perf_counter()
        asyncio.run(all_at_once())
        return STREAMS * TOKENS / (time.perf_counter() - began)

    def one(self, ids: list[int]) -> tuple[float, float]:
        """Seconds to the first token of a prompt, and between the tokens that follow."""
        body = {**body_of("", 1, self._stop_bias), "prompt": ids}
        times = asyncio.run(stream(self.port, body))
        return times[0], (times[-1] - times[0]) / (TOKENS - 1)


@contextmanager
def ours() -> Iterator[Server]:
    """nextword's server on a free port."""
    command = [sys.executable, "-m", "nextword", "serve", "--model", MODEL, "--weights", "int8", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(re.search(r":(\d+)", process.stdout.readline())[1])  # type: ignore[index]
    ends = {str(id): -100 for id in nextword.open(MODEL).stop_ids}
    try:
        yield Server(process, port, {"logit_bias": ends})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@contextmanager
def llama_server(program: Path, file: Path) -> Iterator[Server]:
    """llama.cpp's server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), "-m", str(file), "--port", str(port), "-np", str(STREAMS), "-c", str(STREAMS * 2048)]
    process = subprocess.Popen([*command, "-t", "2", "-tb", "2"], stdout=-3, stderr=-3, text=True)
    try:
        for _ in range(300):
            time.sleep(0.1)
            try:
                asyncio.run(stream(port, {"prompt": "x", "max_tokens": 1}))
                break
            except OSError:
                continue
        yield Server(process, port, {"ignore_eos": True})
    finally:
        process.terminate()
        process.wait(20)


class Bare:
    """The engine in this process, reading and drawing."""

    def __init__(self) -> None:
        self._gpt = nextword.open(MODEL, weights="int8")
        self._session = self._gpt.engine.open_session(2048)

    def one(self, ids: list[int]) -> float:
        """Seconds between tokens."""
        gpt = self._gpt
        sampling = Sampling(
            SETTINGS["temperature"], min_p=SETTINGS["min_p"], logit_bias=dict.fromkeys(gpt.stop_ids, -100.0)
        )
        loop = SamplingLoop(gpt.tokenizer, ids, capacity=2048, sampling=sampling, max_tokens=TOKENS, seed=1)
        self._session.truncate(0)
        step = loop.take(self._session.feed(ids))
        began = time.perf_counter()
        while loop.finish_reason is None:
            step = loop.take(self._session.feed([step.token.id]))
        return (time.perf_counter() - began) / (TOKENS - 1)


def compare(program: Path | None, rounds: int) -> dict[str, Any]:
    """All in turns; medians and ratios."""
    taken: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        taken.setdefault(name, []).append(value)

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        mine, bare, peer = stack.enter_context(ours()), Bare(), None
        if program is not None:
            export_gguf(open_stored(MODEL), Path(folder) / "q8.gguf", "Q8_0")
            peer = stack.enter_context(llama_server(program, Path(folder) / "q8.gguf"))
        ids = np.random.default_rng(0).integers(1000, 40000, (2 * rounds + 2, 100)).tolist()
        for round in range(rounds + 1):
            if round == 1:
                taken.clear()  # the first round warms up
            note("nextword 8 streams", mine.total(round))
            if peer is not None:
                note("llama-server 8 streams", peer.total(round))
            for name, server in (("nextword", mine), ("llama-server", peer)):
                if server is not None:
                    first, between = server.one(ids[2 * round])
                    note(f"{name} first token", first)
                    note(f"{name} between tokens", between)
            note("bare engine between tokens", bare.one(ids[2 * round + 1]))
    ratios = {"added per token over the bare engine": ("nextword between tokens", "bare engine between tokens")}
    if program is not None:
        ratios["8 streams / llama-server"] = ("nextword 8 streams", "llama-server 8 streams")
    return {
        "medians": {name: statistics.median(each) for name, each in taken.items()},
        "ratios": {
            name: statistics.median(x / y for x, y in zip(taken[a], taken[b], strict=True))
            for name, (a, b) in ratios.items()
        },
    }


def storm(seconds: float, clients: int = 200) -> dict[str, Any]:
    """Clients come, stream and vanish at random; what went wrong, and what is left of them."""
    seen = {"finished": 0, "vanished": 0, "refused with 429": 0, "errors": 0}

    async def client(port: int, number: int, end: float) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            most = dice.choice([0, 1, 3, 10, 30, None])
            body = {"prompt": f"Once {dice.random()}" * dice.randint(1, 8), "max_tokens": dice.randint(1, 40)}
            try:
                await stream(port, body, most)
                seen["finished" if most is None else "vanished"] += 1
            except ConnectionRefusedError as error:
                seen["refused with 429" if error.args[0] == 429 else "errors"] += 1
                await asyncio.sleep(dice.random())
            except OSError:
                seen["errors"] += 1

    async def all_at_once(port: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(port, number, end) for number in range(clients)))

    with ours() as server:
        asyncio.run(all_at_once(server.port, seconds / 4))
        before = resident(server.process.pid)
        asyncio.run(all_at_once(server.port, seconds))
        time.sleep(1)
        after = resident(server.process.pid)
        health = asyncio.run(get_json(server.port, "/health"))
    return {**seen, "rows left running": health["running"], "waiting": health["waiting"], "memory": [before, after]}


async def get_json(port: int, path: str) -> Any:
    """What a path answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server program; none if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--storm", type=float, metavar="SECONDS", help="instead of timings")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    result = storm(given.storm) if given.storm else compare(given.llama_server, given.rounds)
    if given.json or given.storm:
        print(json.dumps(result, indent=None if given.json else 1))
        return
    print("| | median |\n| --- | --- |")
    for name, value in result["medians"].items():
        shown = f"{value:,.0f} tokens/s" if "streams" in name else f"{value * 1e3:.2f} ms"
        print(f"| {name} | {shown} |")
    for name, value in result["ratios"].items():
        print(f"| {name} | {value:.3f} x |")


if __name__ == "__main__":
    main()
