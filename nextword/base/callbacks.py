"""Callbacks through which what takes long says so; the command line shows them, a library user may leave them out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

OnNote = Callable[[str], None]
"""Called with a sentence that is to stay in sight."""

OnProgress = Callable[[str], None]
"""Called with a sentence on what is being done now, which replaces the one before."""

Spinner = Callable[[str], AbstractContextManager[object]]
"""Called with what takes long; the context manager that it returns is open while that goes on."""


def ignore(sentence: str) -> None:
    """The callback of who does not want to know."""
