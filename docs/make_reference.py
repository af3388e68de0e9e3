"""docs/reference/python-api.md: every name that `nextword` exports, with its signature and its docstring.

    python docs/make_reference.py

writes the page. `tests/test_reference_page.py` makes it again and compares, so it says what the code says.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

import nextword

PAGE = Path(__file__).parent / "reference" / "python-api.md"
INTRODUCTION = """\
# Python API

<!-- Made by docs/make_reference.py of the docstrings; do not edit this page. -->

What `import nextword` offers: everything in `nextword.__all__`, and no more; what is not here may change at any time.
A prompt is a text, or token ids as a list, a numpy array or a torch tensor of one dimension.
"""
WIDTH = 88  # characters: a longer signature has a line for each parameter
GROUPS = ("Functions", "Classes", "Errors")


def page() -> str:
    """The whole page."""
    logging.getLogger("griffe").setLevel(logging.CRITICAL)  # it would like every type in the docstring
    package = griffe.load("nextword", docstring_parser="google")
    entries: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in nextword.__all__:
        if name == "__version__":
            continue
        entry = getattr(nextword, name)
        found = package[name]
        while found.is_alias:
            found = found.final_target
        if not inspect.isclass(entry):
            entries["Functions"].append(function(name, entry, found))
        elif issubclass(entry, Exception):
            entries["Errors"].append(error(name, entry))
        else:
            entries["Classes"].append(class_(name, entry, found))
    parts = [INTRODUCTION, "`nextword.__version__` is the version, a string.\n"]
    for group in GROUPS:
        parts += [f"## {group}\n", *entries[group]]
    return "\n".join(parts)


def function(name: str, entry: Any, found: griffe.Object, level: int = 3) -> str:
    """The section of a function or method."""
    return "\n".join([f"{'#' * level} `{name}`\n", code(signature(name, entry)), *body(found)])


def error(name: str, entry: type[Exception]) -> str:
    """The section of an error."""
    return f"### `{name}`\n\n{inspect.getdoc(entry)} (A kind of `{entry.__bases__[0].__name__}`.)\n"


def class_(name: str, entry: type, found: griffe.Object) -> str:
    """The section of a class: its docstring, fields and properties as a list, then its methods."""
    parts = [f"### `{name}`\n", code(signature(name, entry)), *body(found)]
    shared = {field.name for field in dataclasses.fields(entry)} if dataclasses.is_dataclass(entry) else set()
    documented = {each.name for section in sections(found) for each in parameters_of(section)}
    lines = []
    for member_name, member in members(found):
        if member.is_attribute and member.docstring and member_name not in documented:
            lines.append(f"- `{member_name}`: {flat(member.docstring.value)}")
    if lines:
        title = "Fields" if shared and all(line.split("`")[1] in shared for line in lines) else "Attributes"
        parts += [f"{title}:\n", *lines, ""]
    for member_name, member in members(found):
        if member.is_function and member.docstring and not member_name.startswith("_"):
            parts.append(function(f"{name}.{member_name}", getattr(entry, member_name), member, 4))
    return "\n".join(parts)


def members(found: griffe.Object) -> Iterator[tuple[str, griffe.Object]]:
    """The public members of a class, its own first and then those of the bases that are nextword's."""
    seen = set()
    for owner in (found, *(base for base in found.mro() if base.path.startswith("nextword."))):
        for name, member in owner.members.items():
            if name not in seen and not name.startswith("_") and not member.is_alias:
                seen.add(name)
                yield name, member


def signature(name: str, entry: Any) -> str:
    """`name(parameter: type = default, ...) -> type`, without self."""
    found = inspect.signature(entry)
    given, star = [], False
    for each in found.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not star:
            given.append("*")
        star = star or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is each.empty else f" = {plain(each.default)}"
        kind = "" if each.annotation is each.empty else f": {annotation(each.annotation)}"
        given.append(f"{mark}{each.name}{kind}{default}")
    result = found.return_annotation
    tail = "" if result is found.empty or inspect.isclass(entry) else f" -> {annotation(result)}"
    line = f"{name}({', '.join(given)}){tail}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in given), f"){tail}"])


def annotation(kind: Any) -> str:
    """A type as the source states it."""
    return kind if isinstance(kind, str) else getattr(kind, "__forward_arg__", None) or inspect.formatannotation(kind)


def plain(default: Any) -> str:
    """A default value: of settings, only what is not their own default."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        changed = {
            field.name: getattr(default, field.name)
            for field in dataclasses.fields(default)
            if field.default is not dataclasses.MISSING and getattr(default, field.name) != field.default
        }
        return f"{type(default).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"
    if repr(default) == "<factory>":
        return "{}"
    if isinstance(default, str):
        return json.dumps(default)
    name = str(getattr(default, "__name__", None) or repr(default))
    return "..." if name == "<lambda>" else name


def sections(found: griffe.Object) -> list[griffe.DocstringSection]:
    """The sections of a docstring, that of `__init__` after that of its class."""
    owners = [found, *([found.members["__init__"]] if "__init__" in found.members else [])]
    return [section for owner in owners if owner.docstring for section in owner.docstring.parsed]


def parameters_of(section: griffe.DocstringSection) -> list[griffe.DocstringParameter]:
    """What a section on parameters or attributes lists; nothing of another section."""
    kinds = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)
    return list(section.value) if section.kind in kinds else []


def body(found: griffe.Object) -> Iterator[str]:
    """A docstring as Markdown."""
    for section in sections(found):
        match section.kind:
            case griffe.DocstringSectionKind.text:
                for paragraph in section.value.split("\n\n"):
                    yield code(paragraph) if paragraph.startswith(">>> ") else f"{paragraph}\n"
            case griffe.DocstringSectionKind.examples:
                for kind, text in section.value:
                    yield code(text) if kind is griffe.DocstringSectionKind.examples else f"{text}\n"
            case griffe.DocstringSectionKind.returns:
                yield "Returns:\n"
                yield from (f"- {flat(each.description)}" for each in section.value)
                yield ""
            case griffe.DocstringSectionKind.raises:
                yield "Raises:\n"
                for each in section.value:
                    errors = str(each.annotation).strip("()").split(", ")
                    yield f"- {', '.join(f'`{error}`' for error in errors)}: {flat(each.description)}"
                yield ""
            case _ if listed := parameters_of(section):
                yield f"{'Args' if section.kind is griffe.DocstringSectionKind.parameters else 'Attributes'}:\n"
                yield from (f"- `{each.name}`: {flat(each.description)}" for each in listed)
                yield ""


def code(text: str) -> str:
    """A block of Python."""
    return f"```python\n{text.rstrip()}\n```\n"


def flat(text: str) -> str:
    """A description on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page())
