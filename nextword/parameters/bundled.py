"""Models that come with nextword, as files inside the package.

The file is checked by its SHA-256 whenever it is found, so what opens is what was measured. An installation without
the file (a partial clone, a package built from one) is told apart from a name that does not exist.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nextword.errors import ChecksumMismatch, ModelNotFound

FOLDER = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Bundled:
    """A GGUF file `NAME.gguf` beside its card `NAME.json`. Size in bytes, SHA-256 in hexadecimal."""

    licence: str
    size: int
    sha256: str


BUNDLED = {
    "tales": Bundled(
        licence="Apache-2.0; learned from public-domain and openly licensed texts, see its card",
        size=24_852_640,
        sha256="ce1829f452374ddf55c6b270f47de31062bb4cece4143efdd5751092e8012c70",
    )
}


def find_bundled(name: str) -> Path | None:
    """The file of a bundled model, None if there is none of this name.

    Raises ModelNotFound if this installation lacks the file, ChecksumMismatch if it is not the one that was measured.
    """
    known = BUNDLED.get(name)
    if known is None:
        return None
    path = FOLDER / f"{name}.gguf"
    if not path.exists():
        raise ModelNotFound(
            f"This copy of nextword came without its model {name} ({path.name} is missing): install it from a complete "
            "checkout (git clone without --filter, git lfs pull), or get another model with `nextword pull smollm2`."
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
        raise ChecksumMismatch(f"{path} is not the model {name} that came with nextword; install nextword again.")
    return path
