"""README.md is true of the program: its Python runs, its commands and options exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import nextword
from nextword import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    command.strip()
    for block in SHELL[2:]  # after installation and tests
    for line in block.splitlines()
    for command in re.sub(r"\s#\s.*", "", line).split(";")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader stands: a folder with a trained run."""
    folder = tmp_path_factory.mktemp("readme")
    list(nextword.start_run(["world:pantry"], folder / "run", nextword.Budget(steps=4), depth=1, seed=1).train())
    return folder


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(PYTHON[number], f"README.md, block {number + 1}", "exec"), {"__name__": "readme"})
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_its_options_exist(command: str) -> None:
    program, verb, *words = shlex.split(command)
    assert program == "nextword"
    verbs = get_command(cli.app).commands  # type: ignore[attr-defined]
    options = {name for parameter in verbs[verb].params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_every_verb_but_decode_is_shown() -> None:
    verbs = set(get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert verbs - {shlex.split(command)[1] for command in COMMANDS} == {"decode"}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
