"""Public functions of three and more parameters document each, in Google's form, as griffe (mkdocstrings) reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache

import griffe
import pytest

# Verbs of the command line: the help of each option documents it.
VERBS = {"nextword.cli.root.app.command", "nextword.cli.root.app.callback"}
ROOMS = (
    *("api", "base", "corpus", "encode", "errors", "model", "optimize", "parameters", "predict", "sample", "trace"),
    *("train", "web", "cli"),
)


@cache
def package() -> griffe.Module:
    """The package as griffe reads it, without importing it."""
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    loaded = griffe.load("nextword", docstring_parser="google", resolve_aliases=False)
    assert isinstance(loaded, griffe.Module)
    return loaded


def functions(room: griffe.Module | griffe.Class) -> Iterator[griffe.Function]:
    """All public functions and methods below, those of private classes and modules left out."""
    for name, member in room.members.items():
        if member.is_alias or (name.startswith("_") and name != "__init__"):
            continue
        if isinstance(member, griffe.Module | griffe.Class):
            yield from functions(member)
        elif isinstance(member, griffe.Function):
            yield member


def parameters(function: griffe.Function) -> list[str]:
    """The names of its parameters without self and cls."""
    return [each.name.lstrip("*") for each in function.parameters if each.name not in ("self", "cls")]


def documented(function: griffe.Function) -> set[str]:
    """The parameters that its docstring, for `__init__` its class's, or those of a dataclass's fields describe."""
    owners = [function, function.parent] if function.name == "__init__" else [function]
    sections = [
        section for owner in owners if owner is not None and owner.docstring for section in owner.docstring.parsed
    ]
    fields = {} if function.lineno or function.parent is None else function.parent.attributes  # 0: made by griffe
    return {name for name in parameters(function) if name in fields and fields[name].has_docstring} | {
        each.name.lstrip("*")
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for each in section.value
        if each.description.strip()
    }


@pytest.mark.parametrize("room", ROOMS)
def test_parameters_are_documented(room: str) -> None:
    module = package().members[room]
    assert isinstance(module, griffe.Module)
    missing = []
    for function in functions(module):
        if VERBS & {decorator.callable_path for decorator in function.decorators}:
            continue
        names, told = parameters(function), documented(function)
        if len(names) >= 3 and not told >= set(names):
            missing.append(f"{function.filepath}:{function.lineno} {function.name}: {sorted(set(names) - told)}")
        if told - set(names):
            missing.append(f"{function.filepath}:{function.lineno} {function.name} has no {sorted(told - set(names))}")
    assert not missing, f"{len(missing)} functions\n" + "\n".join(missing)
