"""The house rules of docs/architecture.md, checked by machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nextword"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def tool(name: str, *arguments: str) -> None:
    done = run(str(Path(sys.executable).parent / name), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_imports_only_from_folders_before_it() -> None:
    tool("lint-imports", "--no-cache")


def test_the_code_is_linted_and_formatted() -> None:
    tool("ruff", "check", "--no-cache", ".")
    tool("ruff", "format", "--no-cache", "--check", ".")


def test_the_types_hold() -> None:
    tool("mypy", "--no-incremental", "--cache-dir=/dev/null")


def test_folders_stand_in_the_order_of_the_data() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.strip("()").removeprefix("nextword.") for layer in contract["layers"]]
    folders = [layer for layer in reversed(layers) if (PACKAGE / layer).is_dir()]
    assert folders.pop() == "cli", "it stands on top of the order, not in it"
    assert folders == sorted(folders)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__", "cli"} == set(folders)


def test_every_package_is_installed_and_so_are_the_benches() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")]
    assert sorted(packages) == sorted([*(".".join(path.parts) for path in found), "nextword.bench"])


def test_benches_are_listed_and_run_by_name() -> None:
    listed = run(sys.executable, "-m", "nextword", "bench")
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {path.stem for path in ROOT.glob("bench/*.py")}
    for name in ("forecast", "bundle"):  # the second imports another one
        helped = run(sys.executable, "-m", "nextword", "bench", name, "--help")
        assert helped.returncode == 0, helped.stderr
        assert "usage" in helped.stdout
    wrong = run(sys.executable, "-m", "nextword", "bench", "nonsense")
    assert (wrong.returncode, "startup" in wrong.stderr) == (1, True)


def test_benches_find_all_that_they_import() -> None:
    program = """
import pathlib, runpy, sys
sys.path[:0] = ["bench", "."]
for path in sorted(pathlib.Path("bench").glob("[a-z]*.py")):
    print(path)
    runpy.run_path(str(path), run_name="imported")
"""
    imported = run(sys.executable, "-c", program)
    assert imported.returncode == 0, imported.stdout + imported.stderr


@pytest.mark.parametrize("folder", ["model", "predict", "sample", "trace"])
def test_the_equations_name_no_family(folder: str) -> None:
    """What differs between families is data in parameters/families; papers may be cited."""
    from nextword.parameters.families import FAMILIES

    families = "|".join(FAMILIES)
    for file in (PACKAGE / folder).rglob("*.py"):
        code = re.sub(r'""".*?"""|#.*', "", file.read_text(), flags=re.DOTALL)
        assert not re.search(rf"\b({families})\b", code, re.IGNORECASE), file


def imported_by(statement: str) -> set[str]:
    done = run(sys.executable, "-W", "error", "-c", f"{statement}\nimport sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_nextword_imports_nothing_heavy() -> None:
    assert not imported_by("import nextword") & {"torch", "numpy", "transformers", "tokenizers", "rich", "typer"}


def test_opening_a_model_and_sampling_do_not_need_torch() -> None:
    statement = "import nextword.api, nextword.parameters.export, nextword.model.architecture, nextword.encode.openai"
    assert not imported_by(statement) & {"torch", "transformers"}


def test_nothing_unpickles() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not re.search(r"\bimport pickle|from pickle|torch\.load\(|allow_pickle=True", file.read_text()), file


def test_every_module_says_what_it_promises() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert file.read_text().startswith('"""'), f"{file} has no docstring"


def test_every_folder_says_what_comes_in_and_goes_out_and_what_it_never_imports() -> None:
    for file in PACKAGE.rglob("__init__.py"):
        if file.parent != PACKAGE:
            words = file.read_text().split('"""')[1]
            assert "\nIn: " in words, file
            assert "out: " in words, file
            assert "import" in words, file
