"""A run that the page started ends when its server is gone, even if that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nextword.parameters.run_folder import RunFolder
from tests.web.served import call
from tests.web.test_serve import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def wait_for(holds: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(holds())


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def child_of(pid: int) -> int:
    """Whichever of its threads began it."""
    return next(int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, address = start("--runs", str(tmp_path))
    try:
        assert wait_for(lambda: answers(address), 20)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_saved_when_its_server_is_killed(tmp_path: Path, server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    assert call(address, "/studio/api/train", {"minutes": 1, "world": "pantry"})[0] == 200
    run = child_of(process.pid)
    log = tmp_path / "pantry-1" / "log.jsonl"
    assert wait_for(lambda: log.exists() and b'"step": 2' in log.read_bytes(), 60), said(tmp_path)
    process.kill()
    assert wait_for(lambda: not lives(run), 15)
    assert "nextword train --resume" in said(tmp_path)
    assert RunFolder(tmp_path / "pantry-1").steps()[-1] >= 2


def test_a_run_ends_when_its_server_is_interrupted_twice(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    assert call(address, "/studio/api/train", {"minutes": 5, "world": "pantry"})[0] == 200
    run = child_of(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.wait(10)
    assert wait_for(lambda: not lives(run), 15)


def answers(address: str) -> bool:
    try:
        return call(address, "/health")[0] == 200
    except OSError:
        return False


def said(folder: Path) -> str:
    return (folder / "pantry-1.log").read_text()


def on_the_leash(code: str) -> subprocess.Popen[bytes]:
    """A process that is held, and let go as soon as it has said so."""
    code = f"import signal, time\nfrom nextword.web.studio import leashed\n{code}"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"held\n"
        assert process.poll() is None
    return process


def test_who_does_not_listen_is_ended() -> None:
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
leashed.PATIENCE = 0.1
leashed.hold()
print('held', flush=True)
time.sleep(60)
"""
    assert on_the_leash(code).wait(10) == 130


def test_a_lost_interrupt_is_said_again() -> None:
    code = """
leashed.hold()
print('held', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(60)
"""
    assert on_the_leash(code).wait(10) == -signal.SIGINT
