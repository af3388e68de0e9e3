"""Writing files so that a reader, a crash or a full disk never leaves half of one.

A file or folder appears under its name only when all of its bytes are on the disk: they are written beside it under
a temporary name, flushed to the device, and renamed. Locks keep two processes from doing the same work.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from nextword.errors import NoDiskRoom

_POLL = 0.1  # seconds: between two attempts to take a lock (Windows)


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole or not at all. An old file of this name stays as it was on failure.

    Args:
        path: The file, in a folder that exists.
        content: Its bytes, or a function that writes them to the open file.

    Raises:
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with disk_room_needed(path):
            flushed_write(temporary, content)
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flushed_write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a new file and flush it to the disk: for the files of an `atomic_folder`.

    Args:
        path: The file, which must not exist yet.
        content: Its bytes, or a function that writes them to the open file.
    """
    with path.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        flush_to_disk(file)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; at the end of the block it is renamed to `path`, which must not exist.

    The caller flushes the files in it to the disk (`flushed_write`). On failure nothing is left behind; what a
    killed writer left is removed by the next one. One writer at a time.

    Raises:
        NoDiskRoom: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
    try:
        with disk_room_needed(path):
            temporary.mkdir(parents=True)
            yield temporary
            _flush_folder(temporary)
            rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Replace `target` by `source`, and flush the folder, so that the new name survives a crash."""
    source.replace(target)
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's list of files to the disk."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_to_disk(file: IO[bytes]) -> None:
    """Flush all that was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def disk_room_needed(path: Path) -> Iterator[None]:
    """Turn the operating system's errors "disk full" and "quota exceeded" into NoDiskRoom, which names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoDiskRoom(f"There is no room left on the disk to write {path}; free some and try again.") from error


def require_room(folder: Path, size: int) -> None:
    """Raise NoDiskRoom unless `size` more bytes fit on the disk that holds this folder."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise NoDiskRoom(f"{folder} needs {size / 1e6:,.1f} MB, but its disk has {free / 1e6:,.1f} MB left; free some.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block; waits while another process holds the lock.

    The operating system releases the lock of a process that dies.
    """
    while True:
        with path.open("ab") as file:
            _lock(file)
            if not _is_file_of(path, file):  # its last holder removed it; others lock a new file
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # Windows cannot remove an open file
                    path.unlink()
            return


def _is_file_of(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        while True:
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                time.sleep(_POLL)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
