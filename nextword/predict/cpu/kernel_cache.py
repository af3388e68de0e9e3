"""The compiled kernels, and the folder in which they are kept between processes.

The file is machine code (an object file), which LLVM alone loads in a few milliseconds: numba, which writes it, and
the kernels' sources are imported only when it has to be written. Whoever can write to this folder can run programs as
the user: it is created for its owner alone, and refused if others own it or may write to it.
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
from typing import Any, get_args, get_type_hints

from llvmlite import binding

from nextword.base.atomic import atomic_write
from nextword.errors import SettingError
from nextword.parameters.cache import cache_folder
from nextword.predict.cpu.processor import features, processor_name
from nextword.predict.cpu.threads import Kernels

_LOG = logging.getLogger(__name__)
_FILE = "kernels.o"
_DIGEST_BYTES = hashlib.sha256().digest_size  # bytes: before the code; LLVM would end the process at a damaged file
_LOADING = threading.Lock()


@cache
def compiled() -> Kernels:
    """The kernels, compiled for this processor or loaded from the cache's folder. They run without the GIL.

    Raises:
        SettingError: Others than the user own the folder or may write to it.
    """
    with _LOADING:
        file = None
        with suppress(OSError, RuntimeError):  # without a writable folder they are compiled in each process
            file = private_folder(kernel_folder()) / _FILE
        code = None if file is None else _read(file)
        if code is None:
            _LOG.info("Compiling the kernels for this processor: once, about half a minute.")
            code = _compile()
            if file is not None:
                with suppress(OSError):
                    atomic_write(file, hashlib.sha256(code).digest() + code)
        return _load(code)


def kernel_folder(sources: Path = Path(__file__).parent) -> Path:
    """The folder of the compiled kernels: one for each state of their sources and of numba, and each processor.

    sources: a folder; every Python file below it counts, because any may change what is compiled.
    """
    digest = hashlib.sha256(f"{metadata.version('numba')} {processor_name()} {sorted(features())}".encode())
    for source in sorted(sources.rglob("*.py")):
        code = source.read_bytes()
        digest.update(f"\n{source.relative_to(sources).as_posix()} {len(code)}\n".encode() + code)
    return cache_folder() / "kernels" / digest.hexdigest()[:16]


def private_folder(folder: Path) -> Path:
    """Create a folder that this user alone can read, in one that this user alone can write to. Returns the folder.

    Raises:
        OSError: It cannot be created.
        SettingError: Others could have changed what lies in it.
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
    """The object file in the cache; None if there is none or it is damaged."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    code = stored[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == stored[:_DIGEST_BYTES] else None


def _compile() -> bytes:
    """An object file of the functions of `Kernels`, under the names of its fields, without dead code."""
    from numba import types

    from nextword.predict.cpu.kernels.forward import run_thread
    from nextword.predict.cpu.kernels.parallel import call_workers, join_workers

    whole = None
    kernels = Kernels(run_thread=run_thread, call_workers=call_workers, join_workers=join_workers)
    dispatcher: Any
    for name, dispatcher in kernels._asdict().items():
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

    They have the calling convention of numba's compiled functions: two addresses, for a result and an exception, of
    which our kernels have neither, then the arguments.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    hints = get_type_hints(Kernels)
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    unused = ctypes.create_string_buffer(2 * ctypes.sizeof(ctypes.c_void_p))
    at = ctypes.addressof(unused)

    def function(name: str) -> Any:
        parameters, _ = get_args(hints[name])
        kinds = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * len(parameters)
        call = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(engine.get_function_address(name))
        call.owners = engine, unused  # type: ignore[attr-defined]  # the code lives as long as its callers
        return partial(call, at, at + ctypes.sizeof(ctypes.c_void_p))

    return Kernels(*map(function, Kernels._fields))
