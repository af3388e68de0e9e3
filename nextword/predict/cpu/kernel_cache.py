"""The compiled forward pass, and the folder it is kept in between processes.

What is kept is machine code (an object file), which LLVM alone loads in a few milliseconds: numba, which writes it, and
the kernels' source are imported only where it has to be written. Whoever can write what is loaded from here can run
programs as the user: the folder is made for its owner alone, and one that others own or may write to is refused.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import stat
import threading
from contextlib import suppress
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from llvmlite import binding

from nextword.base.atomic import atomic_write
from nextword.errors import SettingError
from nextword.parameters.cache import cache_folder
from nextword.predict.cpu.processor import features, processor_name
from nextword.predict.cpu.threads import Kernels

_LOG = logging.getLogger(__name__)
_FILE = "kernels.o"
_DIGEST_BYTES = hashlib.sha256().digest_size  # before the code: for a damaged file LLVM would end the process
_LOADING = threading.Lock()


@cache
def compiled() -> Kernels:
    """The kernels, compiled for this processor; from the cache's folder if they were compiled before.

    They run without Python's global lock. Raises SettingError for a folder that is not ours alone.
    """
    with _LOADING:
        file = None
        with suppress(OSError, RuntimeError):  # without a folder to write to they are compiled again each time
            file = private_folder(kernel_folder()) / _FILE
        code = None if file is None else _read(file)
        if code is None:
            _LOG.info("Compiling the kernels for this processor: once, about half a minute.")
            code = _compile()
            if file is not None:
                with suppress(OSError):
                    atomic_write(file, hashlib.sha256(code).digest() + code)
        return _load(code)


def kernel_folder() -> Path:
    """Where compiled kernels are kept: one folder for each state of their source and of numba, and each processor."""
    digest = hashlib.sha256(f"{metadata.version('numba')} {processor_name()} {sorted(features())}".encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return cache_folder() / "kernels" / digest.hexdigest()[:16]


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, that only this user can look into, in one that only this user can write to.

    Raises OSError if it cannot be made, SettingError if others could have changed what lies in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are theirs
        return folder
    for path in (folder.parent, folder):
        found = path.lstat()
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
            raise SettingError(
                f"{path} holds compiled programs, and others than you own it or could write to it: remove it, or set "
                "NEXTWORD_CACHE to a folder of your own."
            )
    folder.chmod(0o700)
    return folder


def _read(file: Path) -> bytes | None:
    """The object file that was kept; None if there is none, or not as it was written."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    code = kept[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == kept[:_DIGEST_BYTES] else None


def _compile() -> bytes:
    """An object file of the functions of `Kernels`, under their names and with nothing that they do not use."""
    from numba import types

    from nextword.predict.cpu.kernels.forward import take_part
    from nextword.predict.cpu.kernels.parallel import call_helpers, dismiss

    whole = None
    for name, kernel in zip(Kernels._fields, (take_part, call_helpers, dismiss), strict=True):
        dispatcher: Any = kernel
        dispatcher.compile((types.int64,) * dispatcher.py_func.__code__.co_argcount)
        (made,) = dispatcher.overloads.values()
        module = binding.parse_assembly(made.library.get_llvm_str())
        for each in (*module.functions, *module.global_variables):
            if each.name == made.fndesc.llvm_func_name:
                each.name = name
            elif not each.is_declaration:
                each.linkage = "internal"
        if whole is None:
            whole, target = module, made.library.codegen._tm
        else:
            whole.link_in(module)
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(whole, binding.create_pass_builder(target, binding.create_pipeline_tuning_options(0)))
    code: bytes = target.emit_object(whole)
    return code


def _load(code: bytes) -> Kernels:
    """The functions of an object file.

    They are called as numba's compiled functions are: first two addresses for a result and an exception, of which our
    kernels have neither, then the arguments.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    nothing = ctypes.create_string_buffer(2 * ctypes.sizeof(ctypes.c_void_p))
    at = ctypes.addressof(nothing)

    def function(name: str, n_arguments: int) -> Any:
        kinds = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * n_arguments
        call = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(engine.get_function_address(name))
        call.held = engine, nothing  # type: ignore[attr-defined]  # the code lives as long as whoever calls it
        return partial(call, at, at + ctypes.sizeof(ctypes.c_void_p))

    return Kernels(function("take_part", 4), function("call_helpers", 3), function("dismiss", 2))
