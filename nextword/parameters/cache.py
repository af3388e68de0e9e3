"""The folder of pulled models on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """nextword's folder for files that can be downloaded or computed again; the folder may not exist yet.

    $NEXTWORD_CACHE, else $XDG_CACHE_HOME/nextword, else the platform's usual place: ~/.cache/nextword,
    ~/Library/Caches/nextword on macOS, %LOCALAPPDATA%/nextword/cache on Windows.
    """
    if chosen := os.environ.get("NEXTWORD_CACHE"):
        return Path(os.path.expanduser(chosen)).absolute()  # unlike Path.expanduser, keeps "~nobody" without an error
    # the XDG base directory specification ignores relative paths
    if (xdg := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return xdg / "nextword"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nextword"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "nextword" / "cache"
    return Path.home() / ".cache" / "nextword"
