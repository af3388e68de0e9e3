"""This machine's processor, as the kernels' compiler sees it."""

from __future__ import annotations

import os
from functools import cache

from llvmlite import binding


@cache
def features() -> frozenset[str]:
    """What compiled code may use of the processor, in LLVM's names; nothing if numba is told to forget which it is."""
    if os.environ.get("NUMBA_CPU_NAME") == "generic":
        return frozenset()
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
