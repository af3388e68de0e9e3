"""The command line of nextword as a child process that ends when its standard input ends.

    python -m nextword.web.studio.leashed train ...

The parent holds the other end of the input and writes nothing. When the parent closes it, or is killed, the input ends.
Promises, each with a test: at the input's end the process gets SIGINT as from Ctrl-C, which leaves a run resumable; if
it takes longer than PATIENCE to end, it is ended at once.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time

PATIENCE = 10.0  # seconds: for a run to save its state


def hold() -> None:
    """End this process when its standard input ends, from now on."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 1 << 12):
        pass
    end = time.monotonic() + PATIENCE
    while not _interrupt() and time.monotonic() < end:
        time.sleep(1)  # an `except` may have caught the KeyboardInterrupt: send it again
    time.sleep(max(end - time.monotonic(), 0))
    os._exit(128 + signal.SIGINT)


def _interrupt() -> bool:
    """Send SIGINT to the main thread.

    Returns:
        True if a handler is installed that shuts down cleanly, in which case SIGINT must not be sent again.
    """
    listens = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):  # this also wakes the main thread from a blocking call
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
    return listens


if __name__ == "__main__":
    hold()
    runpy.run_module("nextword", run_name="__main__", alter_sys=True)
