"""The choice of an engine: kernels on a CPU, PyTorch on any other device, imported only then.

The quantization error of rounded weights is measured once, when they are packed: on the calibration text, against the
same weights in float32, if those fit into memory.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nextword.errors import SettingError
from nextword.model.architecture import Architecture
from nextword.parameters.stored import StoredTensor
from nextword.predict.engine import Engine, KvCache, Weights, check_kv_cache, check_weights
from nextword.predict.rounding import measure_quantization_error

_LOG = logging.getLogger(__name__)

CalibrationText = Callable[[], tuple[Sequence[int], int]]  # the ids of a text, and the bytes of all but the first


def open_engine(
    architecture: Architecture,
    tensors: Mapping[str, StoredTensor],
    source: Path,
    *,
    device: str,
    weights: str,
    kv_cache: str,
    calibration_text: CalibrationText,
) -> Engine:
    """The engine for a device.

    Args:
        architecture: What the model computes.
        tensors: All its tensors, as they are stored.
        source: The file or folder that the tensors are from.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or "mps".
        weights: The form of the weights on a CPU, one of `WEIGHTS`.
        kv_cache: The form of keys and values on a CPU, one of `KV_CACHES`.
        calibration_text: Called for the text on which quantization error is measured, at most a context of it.

    Raises:
        SettingError: There is no such device, or it cannot hold weights, keys or values in this form.
    """
    form, kv_form = check_weights(weights), check_kv_cache(kv_cache)
    if device != "cpu" and not (device == "auto" and not has_cuda_driver()):
        from nextword.predict.torch_engine import TorchEngine, pick_device

        device = pick_device(device)
        if device != "cpu":
            for what, asked in (("weights", form), ("keys and values", kv_form)):
                if asked not in ("auto", "fp32"):
                    raise SettingError(f"Only a CPU holds {what} as {asked}; use --device cpu.")
            return TorchEngine(architecture, tensors, device)
    return _cpu_engine(architecture, tensors, source, form, kv_form, calibration_text)


def has_cuda_driver() -> bool:
    """Whether a CUDA device may be there, without importing torch, which takes seconds."""
    for name in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def _cpu_engine(
    architecture: Architecture,
    tensors: Mapping[str, StoredTensor],
    source: Path,
    weights: Weights,
    kv_cache: KvCache,
    calibration_text: CalibrationText,
) -> Engine:
    from nextword.predict.cpu import packed_file
    from nextword.predict.cpu.engine import CpuEngine
    from nextword.predict.cpu.packed import form_of, is_lossless, pack

    path = packed_file.packed_path(source, weights)
    packed = packed_file.load_packed(tensors, weights, path)
    engine = CpuEngine(architecture, packed, kv_cache=kv_cache)
    if path.is_file() and packed_file.read_description(path) is None:
        lossless = all(is_lossless(tensor, form_of(name, tensor, weights)) for name, tensor in tensors.items())
        error = None
        if not lossless and 4 * architecture.n_parameters < free_memory() / 2:
            _LOG.info("Measuring the quantization error of this form: once, seconds to minutes.")
            exact = CpuEngine(architecture, pack(tensors, "fp32"))
            rounded = engine if kv_cache == "auto" else CpuEngine(architecture, packed)  # the weights' error alone
            error = measure_quantization_error(exact, rounded, *calibration_text())
        with suppress(OSError):
            packed_file.write_description(path, source.name, weights, lossless, error)
    return engine


def free_memory() -> float:
    """Bytes of memory that are free; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
