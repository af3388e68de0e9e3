"""The `>>>` examples of docstrings are true: doctest runs every one of them, without a network, in an empty folder."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nextword"
PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(file: Path) -> str:
    """The module of a file; only those that have examples are imported."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if PROMPT.search(file.read_text())}


@pytest.mark.parametrize("name", FILES)
def test_examples_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", no_network)
    examples = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name)
    said: list[str] = []
    for example in examples:
        doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)
    found = sum(len(example.examples) for example in examples)
    written = len(PROMPT.findall(FILES[name].read_text()))
    assert found == written, f"{written - found} examples of {name} stand where doctest does not look"


def no_network(*_: object) -> None:
    raise AssertionError("an example wants a network")
