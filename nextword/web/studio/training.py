"""A training run that the page starts: `nextword train` as a process of its own, one at a time.

Promises, each with a test: nothing is written but into the one folder that was named when the server was started, under
names made here; the text is a file or a known-truth language, never a path from a request; a run that is stopped can
be resumed; none outlives the server, however that ends, for more than the time it takes to save its state.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from nextword.base.atomic import atomic_write
from nextword.base.types import Json
from nextword.corpus.document import WORLD
from nextword.corpus.worlds import world as find_world
from nextword.errors import InputError

_SAID = 4_000  # bytes: of what the process said last


class Training:
    """The run that is under way, if any. Not to be called by two threads at once."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._process: subprocess.Popen[bytes] | None = None
        self._name = ""
        self._stopped = False

    def start(self, minutes: float, *, text: str | None, world: str | None) -> Json:
        """Begin a run.

        Args:
            minutes: Of the whole run.
            text: To learn from; None where `world` is given.
            world: Name of a known-truth language.

        Raises:
            InputError: A run is under way, there is no text, or no language of that name.
        """
        if self._is_running():
            raise InputError(f"{self._name} is still training; wait for its end or stop it.")
        if world is not None:
            find_world(world)
        self.stop()
        self._runs.mkdir(parents=True, exist_ok=True)
        self._name = self._new_name("page" if world is None else world)
        source = f"{WORLD}{world}"
        if world is None:
            if not text or not text.strip():
                raise InputError("There is nothing to learn from: paste some text.")
            path = self._runs / f"{self._name}.txt"
            atomic_write(path, text.encode())
            source = str(path)
        self._stopped = False
        command = [
            sys.executable,
            "-m",
            "nextword.web.studio.leashed",
            "train",
            source,
            "--out",
            str(self._runs / self._name),
        ]
        with self._log().open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--minutes", str(minutes)],
                stdin=subprocess.PIPE,  # the leash
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the server stops it, not the terminal as well
            )
        return self.state()

    def state(self) -> Json:
        """`state`: "none", "running", "done", "stopped" or "failed"; `said`: the last line that the process wrote."""
        if self._process is None:
            return {"state": "none", "run": None, "said": ""}
        code = self._process.poll()
        state = "running" if code is None else "done" if code == 0 else "stopped" if self._stopped else "failed"
        return {"state": state, "run": self._name, "said": self._last_line()}

    def stop(self) -> Json:
        """Let the run save its state, if it has begun, and end; wait until it has."""
        if self._process is not None:
            self._stopped |= self._is_running()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
        return self.state()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _log(self) -> Path:
        return self._runs / f"{self._name}.log"

    def _last_line(self) -> str:
        with suppress(OSError), self._log().open("rb") as log:
            log.seek(max(log.seek(0, 2) - _SAID, 0))
            lines = log.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def _new_name(self, kind: str) -> str:
        """A name that neither a run, nor its text, nor its log has."""
        taken = {path.stem for path in self._runs.iterdir()}
        return next(name for number in range(1, len(taken) + 2) if (name := f"{kind}-{number}") not in taken)
