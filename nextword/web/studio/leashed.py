"""`nextword` on a leash: it ends when its standard input does, however whoever held the other end came to let go.

    python -m nextword.web.studio.leashed train ...

Promises, each with a test: at the input's end it is told to end as by Ctrl-C, which leaves a run resumable; if that
takes longer than PATIENCE it ends at once. Nothing need be sent, so that even a holder that was killed lets go.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time

PATIENCE = 10.0  # seconds that a run has to save its state


def hold() -> None:
    """From here on this process is on the leash."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 1 << 12):
        pass
    end = time.monotonic() + PATIENCE
    while not _payload() and time.monotonic() < end:
        time.sleep(1)  # an interrupt can be swallowed, by an `except` on the way
    time.sleep(max(end - time.monotonic(), 0))
    os._exit(128 + signal.SIGINT)


def _payload() -> bool:
    """Interrupt; whether somebody listens who notes it and ends in good order, to whom it must not be said twice."""
    listens = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):  # which also wakes it where it waits
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
    return listens


if __name__ == "__main__":
    hold()
    runpy.run_module("nextword", run_name="__main__", alter_sys=True)
