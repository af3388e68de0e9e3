"""Compiled kernels are loaded only from a folder that nobody else can write to, and without numba's extensions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextword.errors import SettingError
from nextword.predict import kernel_cache
from nextword.predict.kernel_cache import is_compiled, kernel_folder, private_folder


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
    assert not is_compiled(kernel_folder())
    (folder / "predict").mkdir(parents=True)
    (folder / "predict" / "forward.nbc").touch()
    assert is_compiled(kernel_folder())
    monkeypatch.setattr(kernel_cache, "features", lambda: {"another processor's"})
    assert not is_compiled(kernel_folder())


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


def test_kernels_are_of_the_types_that_they_are_called_with() -> None:
    """One form is compiled, and calling it compiles no other."""
    import nextword

    nextword.open("tales", device="cpu").predict("Once")
    assert kernel_cache.compiled().nopython_signatures == [kernel_cache.compiled().nopython_signatures[0]]


def test_extensions_of_numba_are_not_imported_for_us_but_for_others() -> None:
    program = (
        "import sys, nextword\n"
        "from numba.core import entrypoints\n"
        "nextword.open('tales', device='cpu').predict('Once')\n"
        "assert not entrypoints._already_initialized"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
