"""The processor that kernels are compiled for, and the features that they may use."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from llvmlite import binding

_AT_HWCAP, _HWCAP_ASIMDDP = 16, 1 << 20  # codes: of <linux/auxvec.h> and <asm/hwcap.h> (arm64)
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
    """LLVM's name of the processor that kernels are compiled for: this one, unless NUMBA_CPU_NAME names another."""
    name: str = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    return name


@cache
def features() -> frozenset[str]:
    """LLVM's names of the processor's features that compiled code may use: all of this one's by default.

    NUMBA_CPU_FEATURES ("+avx2,+fma") names others; without it, NUMBA_CPU_NAME=generic means none.
    """
    given = os.environ.get("NUMBA_CPU_FEATURES", "" if processor_name() == "generic" else None)
    if given is not None:
        return frozenset(feature[1:] for feature in given.split(",") if feature.startswith("+"))
    found = {feature for feature, there in binding.get_host_cpu_features().items() if there}
    if _has_dot_products() and _compiles_dot_products(processor_name()):
        found.add("dotprod")
    return frozenset(found)


def _has_dot_products() -> bool:
    """Whether this is an ARM processor with dot products of bytes (FEAT_DotProd), which LLVM does not list."""
    if platform.machine() not in ("aarch64", "arm64"):
        return False
    if platform.system() == "Linux":
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(ask(_AT_HWCAP) & _HWCAP_ASIMDDP)
    return platform.system() == "Darwin"  # every Mac with an ARM processor does


def _compiles_dot_products(processor: str) -> bool:
    """Whether LLVM compiles dot products of bytes for a processor of this name.

    LLVM ends the process when it is to compile the instruction for a processor that it believes to lack it.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=processor)
    return "sdot" in machine.emit_assembly(binding.parse_assembly(_DOT_PRODUCT))
