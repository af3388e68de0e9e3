"""Models that come with nextword, as files inside the package.

The file's SHA-256 is checked whenever the model is opened, so the model is the one that was measured. An installation
without the file (a partial clone, a package built from one) gives another error than a name that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nextword.errors import ChecksumMismatch, ModelNotFound
from nextword.parameters.fetch import sha256_of

FOLDER = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Bundled:
    """A GGUF file `NAME.gguf` beside its card `NAME.json`.

    Args:
        licence: The licence of the weights, and the source of the texts they were learned from.
        size: Size of the file in bytes.
        sha256: SHA-256 (hex) of the file.
    """

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
    """The file of a bundled model, or None for a name that no bundled model has.

    Raises ModelNotFound if this installation lacks the file, ChecksumMismatch if the file has another hash.
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
    if sha256_of(path) != known.sha256:
        raise ChecksumMismatch(f"{path} is not the model {name} that came with nextword; install nextword again.")
    return path
