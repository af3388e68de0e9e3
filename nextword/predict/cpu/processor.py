"""This machine's processor, as the kernels' compiler sees it."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from llvmlite import binding

_AT_HWCAP, _HWCAP_ASIMDDP = 16, 1 << 20  # <linux/auxvec.h>, <asm/hwcap.h> of arm64
_DOT_PRODUCT = """
define i32 @dot(<16 x i8> %a, <16 x i8> %b) {
  %x = sext <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %products = mul <16 x i32> %x, %y
  %sum = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %products)
  ret i32 %sum
}
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
"""


def processor_name() -> str:
    """The processor that is compiled for, by LLVM's name: this one, unless numba is told another."""
    told: str = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    return told


@cache
def features() -> frozenset[str]:
    """What compiled code may use of the processor, in LLVM's names: this one's, unless numba is told which to use.

    Numba is told with NUMBA_CPU_FEATURES ("+avx2,+fma"); without it, NUMBA_CPU_NAME=generic means none.
    """
    told = os.environ.get("NUMBA_CPU_FEATURES", "" if processor_name() == "generic" else None)
    if told is not None:
        return frozenset(feature[1:] for feature in told.split(",") if feature.startswith("+"))
    found = {feature for feature, there in binding.get_host_cpu_features().items() if there}
    if _has_dot_products() and _compiles_dot_products(processor_name()):
        found.add("dotprod")
    return frozenset(found)


def _has_dot_products() -> bool:
    """Whether this is an ARM processor that multiplies bytes four by four (FEAT_DotProd), which LLVM does not list."""
    if platform.machine() not in ("aarch64", "arm64"):
        return False
    if platform.system() == "Linux":
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(ask(_AT_HWCAP) & _HWCAP_ASIMDDP)
    return platform.system() == "Darwin"  # every Mac with an ARM processor does


def _compiles_dot_products(processor: str) -> bool:
    """Whether LLVM knows it of a processor of this name: asked for one it does not know of, it ends the process."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=processor)
    return "sdot" in machine.emit_assembly(binding.parse_assembly(_DOT_PRODUCT))
