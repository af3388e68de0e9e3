"""The compiled forward pass, and the folder it is kept in between processes.

Whoever can write what is loaded from here can run programs as the user: the folder is made for its owner alone, and
one that others own or may write to is refused.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import entrypoints
from numba.core.compiler_lock import global_compiler_lock

from nextword.errors import SettingError
from nextword.parameters.cache import cache_folder
from nextword.predict import forward as passes
from nextword.predict.llvm import features

_LOG = logging.getLogger(__name__)
_SOURCES = ("llvm", "reserve", "lanes", "records", "groups", "elementary", "tiles", "team", "forward")


@cache
def compiled() -> Any:
    """The forward pass, compiled for this processor; from the cache's folder if it was compiled before.

    Raises SettingError for a folder that is not ours alone.
    """
    with global_compiler_lock:
        is_kept = False
        with suppress(OSError, RuntimeError):  # without a folder to write to it is compiled again each time
            folder = private_folder(kernel_folder())
            is_kept = is_compiled(folder)
            before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
            try:
                passes.forward.enable_caching()  # type: ignore[attr-defined]
            finally:
                numba.config.CACHE_DIR = before
        if not is_kept:
            _LOG.info("Compiling the kernels for this processor: once, about half a minute.")
        with _without_extensions():
            passes.forward.compile((types.int64,) * len(signature(passes.forward.py_func).parameters))  # type: ignore[attr-defined]
    return passes.forward


def is_compiled(folder: Path) -> bool:
    """Whether the forward pass was compiled before, and is kept in this folder."""
    return any(folder.glob("*/*.nbc"))


def kernel_folder() -> Path:
    """Where compiled kernels are kept: one folder for each state of their source and of numba, and each processor."""
    digest = hashlib.sha256(f"{numba.__version__} {sorted(features())}".encode())
    for source in _SOURCES:
        digest.update((Path(__file__).parent / f"{source}.py").read_bytes())
    return cache_folder() / "kernels" / digest.hexdigest()[:16]


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, that only this user can look into, in one that only this user can write to.

    Raises OSError if it cannot be made, SettingError if others could have changed what lies in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are theirs
        return folder
    for path in (folder.parent, folder):
        found = path.lstat()
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
            raise SettingError(
                f"{path} holds compiled programs, and others than you own it or could write to it: remove it, or set "
                "NEXTWORD_CACHE to a folder of your own."
            )
    folder.chmod(0o700)
    return folder


@contextmanager
def _without_extensions() -> Iterator[None]:
    """numba imports every installed package that extends it before it compiles or loads anything.

    Our kernels use no such extension, and to import them takes longer than to load the kernels; they are
    imported when somebody else compiles.
    """
    before = entrypoints._already_initialized
    entrypoints._already_initialized = True
    try:
        yield
    finally:
        entrypoints._already_initialized = before
