"""Ways in which a file of arrays or its table can be damaged; for the tests that refuse them."""

from __future__ import annotations

import shutil
from pathlib import Path

DAMAGES = ["missing", "empty", "cut", "garbage", "longer header", "other column"]


def damage(path: Path, how: str, other: Path) -> None:
    """Damage the file at `path` in one of the `DAMAGES`; `other` is a sound file of another column."""
    data = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "garbage":
            path.write_bytes(b"\x80\x04\x95" + data)  # how a pickle begins
        case "longer header":
            path.write_bytes(data.replace(b"'shape': (", b"'shape': (9").replace(b'"format": 1', b'"format": 2'))
        case "other column":
            shutil.copy(other, path)
        case _:
            raise AssertionError(how)
