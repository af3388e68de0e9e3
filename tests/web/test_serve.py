"""`nextword serve` as a process, and `generate` and `chat` as its clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import nextword
from nextword.errors import EmptyPrompt, InputError, ServerError
from nextword.web.client import Server
from tests.web.served import call

PROMPT = "The king had three sons, and the youngest"


def nextword_(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nextword", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def start(*words: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "nextword", "serve", "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    return process, found[0]


def stop(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    process, address = start("--name", "stories", "--rows", "2")
    for _ in range(200):
        try:
            call(address, "/health")
            break
        except OSError:
            time.sleep(0.05)
    yield address
    assert stop(process) == (130, "")


def test_generate_writes_what_it_writes_here(address: str) -> None:
    words = ["generate", PROMPT, "--seed", "5", "--max-tokens", "20", "--temperature", "0.8", "--stop", "zzz"]
    here, there = nextword_(*words), nextword_(*words, "--server", address)
    assert (there.returncode, there.stdout) == (0, here.stdout)
    assert "20 tokens" in there.stderr
    assert "seed 5" in there.stderr


def test_a_server_is_used_as_a_model_is(address: str) -> None:
    server = Server(f"{address}/v1")
    answer = server.generate(PROMPT, {"temperature": 0, "logit_bias": {7: float("-inf")}}, max_tokens=6)
    chunks = list(answer)
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert answer.finish_reason == "length"
    first = nextword.open("tales").predict(PROMPT).top(1)[0]
    assert chunks[0].text == first.token
    assert chunks[0].probability == pytest.approx(first.probability)


def test_what_goes_wrong_is_one_sentence(address: str) -> None:
    with pytest.raises(ServerError, match="chat template"):
        list(Server(address).chat().say("hello"))
    with pytest.raises(ServerError, match="gpt-9"):
        list(Server(address, "gpt-9").generate("x", {}))
    with pytest.raises(EmptyPrompt):
        Server(address).generate("", {})
    with pytest.raises(InputError, match="http"):
        Server("localhost:8000")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ServerError, match="nextword serve"):
        Server(f"http://127.0.0.1:{port}")
    done = nextword_("generate", "x", "--server", address, "--json")
    assert done.returncode == 2


def test_a_path_is_called_by_its_last_part() -> None:
    process, address = start("--model", str(nextword.open("tales").path))
    assert [model["id"] for model in call(address, "/v1/models")[1]["data"]] == ["tales.gguf"]
    assert stop(process)[0] in (0, 130)


def test_a_port_in_use_is_told(address: str) -> None:
    done = nextword_("serve", "--port", address.rpartition(":")[2])
    assert (done.returncode, done.stdout) == (1, "")
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_are_let_in_with_a_word_of_warning() -> None:
    process, address = start("--host", "0.0.0.0")
    _, errors = stop(process)
    assert "--api-key" in errors
    assert address.startswith("http://0.0.0.0:")


def test_an_end_lets_a_text_end(address: str) -> None:
    process, mine = start()
    time.sleep(0.5)
    answer = iter(Server(mine).generate("Once", {"logit_bias": {0: -100}}, max_tokens=300))
    text = next(answer).text
    process.send_signal(signal.SIGTERM)
    text += "".join(chunk.text for chunk in answer)
    _, errors = process.communicate(timeout=20)
    assert errors == ""
    assert process.returncode in (-signal.SIGTERM, 143)
    wanted = Server(address).generate("Once", {"logit_bias": {0: -100}}, max_tokens=300)
    assert len(text) > 300
    assert wanted.seed != 0
