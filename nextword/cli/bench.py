"""Run again the measurements behind the figures that nextword states."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer

import nextword
from nextword.cli.root import app
from nextword.errors import InputError


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(
    context: typer.Context,
    what: Annotated[
        str | None, typer.Argument(metavar="[WHAT]", help="The name of a bench; without it, all are listed.")
    ] = None,
) -> None:
    """Run a bench: generate, train, serve, explain ... Options after WHAT are the bench's: `bench WHAT --help`."""
    scripts = {path.stem: path for path in sorted(_folder().glob("[a-z]*.py"))}
    if what in (None, "--help", "-h"):
        width = max(map(len, scripts))
        for name, path in scripts.items():
            print(f"{name:<{width}}  {_first_line(path)}")
        return
    if what not in scripts:
        raise InputError(f"There is no bench {what!r:.40}; there are {', '.join(scripts)}.")
    before, sys.argv = sys.argv, [f"nextword bench {what}", *context.args]
    sys.path.insert(0, str(_folder()))  # as python does for a script: they import each other
    try:
        runpy.run_path(str(scripts[what]), run_name="__main__")
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing for this; pip install 'nextword[test,peers]'.") from error
    finally:
        sys.argv = before
        sys.path.remove(str(_folder()))


def _folder() -> Path:
    """The folder of the benches: beside the package in a checkout, inside the package where it is installed."""
    package = Path(nextword.__file__).parent
    return next(folder for folder in (package / "bench", package.parent / "bench") if folder.is_dir())


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
