"""Compiled kernels are loaded from a folder that nobody else can write to, as they were written, without numba."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nextword.errors import SettingError
from nextword.predict.cpu import kernel_cache
from nextword.predict.cpu.kernel_cache import kernel_folder, private_folder
from nextword.predict.cpu.layout import MAILBOX_BYTES, POSTED


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel folder that does not exist yet."""
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))
    return kernel_folder()


def test_the_folder_is_made_for_its_owner_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        assert private_folder(folder) == folder
    finally:
        os.umask(before)
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert private_folder(folder) == folder, "a second time"


@pytest.mark.parametrize(("which", "mode"), [("own", 0o770), ("own", 0o707), ("parent", 0o770), ("parent", 0o703)])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, which: str, mode: int) -> None:
    private_folder(folder)
    path = folder if which == "own" else folder.parent
    path.chmod(mode)
    with pytest.raises(SettingError, match=str(path)):
        private_folder(folder)


def test_a_folder_that_others_could_only_read_is_closed_to_them(folder: Path) -> None:
    private_folder(folder)
    folder.chmod(0o755)
    private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_is_known_whether_kernels_are_compiled_for_this_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> bool:
        return (kernel_folder() / "kernels.o").is_file()

    assert not kept()
    folder.mkdir(parents=True)
    (folder / "kernels.o").touch()
    assert kept()
    for what, others in (("features", frozenset({"another processor's"})), ("processor_name", "another")):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(kernel_cache, what, lambda others=others: others)
            assert not kept()
    assert kept()


SOURCES = Path(kernel_cache.__file__).parent


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the folder that the kernels are compiled from."""
    return shutil.copytree(SOURCES, tmp_path / "cpu", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("name", sorted(file.relative_to(SOURCES).as_posix() for file in SOURCES.rglob("*.py")))
def test_a_changed_source_file_has_another_folder(name: str, sources: Path, folder: Path) -> None:
    assert kernel_folder(sources) == folder, "the same files, wherever they lie"
    with (sources / name).open("a") as file:
        file.write("\n")
    assert kernel_folder(sources) != folder


@pytest.mark.parametrize("name", ["new.py", "kernels/new.py", "kernels/below/new.py"])
@pytest.mark.parametrize("code", ["", "x = 1\n"])
def test_a_new_source_file_has_another_folder(name: str, code: str, sources: Path, folder: Path) -> None:
    (sources / name).parent.mkdir(exist_ok=True)
    (sources / name).write_text(code)
    assert kernel_folder(sources) != folder


def test_a_moved_or_removed_source_file_has_another_folder(sources: Path, folder: Path) -> None:
    (sources / "kernels" / "matmul.py").rename(sources / "matmul.py")
    moved = kernel_folder(sources)
    (sources / "matmul.py").unlink()
    assert len({folder, moved, kernel_folder(sources)}) == 3


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private_folder(folder)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(SettingError, match="NEXTWORD_CACHE"):
        private_folder(folder)


def test_a_link_to_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir(parents=True, mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError):
        private_folder(folder)


def test_nothing_is_loaded_from_a_folder_that_others_can_write_to(folder: Path) -> None:
    private_folder(folder)
    folder.chmod(0o777)
    done = subprocess.run([sys.executable, "-m", "nextword", "predict", "The"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(folder) in done.stderr


def run(program: str) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


PREDICT = "import sys, nextword\nprint(nextword.open('tales', device='cpu').predict('Once upon a').top(1)[0])\n"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernels of this processor, in a folder of the test's."""
    run(PREDICT)
    usual = kernel_folder()
    assert (usual / "kernels.o").is_file()
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(usual, private_folder(kernel_folder()), dirs_exist_ok=True)


def test_kernels_that_were_compiled_before_need_no_compiler(copied: Path) -> None:
    assert "time" in run(PREDICT + "assert 'numba' not in sys.modules, 'numba takes half a second to import'")


@pytest.mark.parametrize("damage", [lambda code: code[:-100], lambda code: code[:2000] + b"x" + code[2001:]])
def test_damaged_kernels_are_compiled_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    (file,) = copied.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    monkeypatch.setattr(kernel_cache, "_compile", lambda: whole[32:])
    kernels = kernel_cache.compiled.__wrapped__()
    assert file.read_bytes() == whole
    mailboxes = np.zeros((2, MAILBOX_BYTES // 8), np.int64)
    kernels.call_workers(mailboxes.ctypes.data, len(mailboxes), 7)
    assert mailboxes[:, :3].tolist() == [[POSTED, 7, True]] * 2
