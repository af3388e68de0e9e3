"""This machine's processor, as the kernels' compiler sees it."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from llvmlite import binding

_AT_HWCAP, _HWCAP_ASIMDDP = 16, 1 << 20  # <linux/auxvec.h>, <asm/hwcap.h> of arm64


@cache
def features() -> frozenset[str]:
    """What compiled code may use of the processor, in LLVM's names; nothing if numba is told to forget which it is."""
    told = os.environ.get("NUMBA_CPU_NAME")
    if told == "generic":
        return frozenset()
    found = {name for name, there in binding.get_host_cpu_features().items() if there}
    if (told or binding.get_host_cpu_name()) != "generic" and _has_dot_products():
        found.add("dotprod")
    return frozenset(found)


def _has_dot_products() -> bool:
    """Whether an ARM processor multiplies bytes four by four (FEAT_DotProd), which LLVM does not list.

    It knows it of every processor that has a name to it.
    """
    if platform.machine() not in ("aarch64", "arm64"):
        return False
    if platform.system() == "Linux":
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(ask(_AT_HWCAP) & _HWCAP_ASIMDDP)
    return platform.system() == "Darwin"  # every Mac with an ARM processor does
