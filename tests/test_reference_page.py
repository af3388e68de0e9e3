"""docs/reference/python-api.md is what docs/make_reference.py makes of today's docstrings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import nextword

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(maker: ModuleType) -> None:
    made, stands = maker.page(), maker.PAGE.read_text()
    assert made == stands, "make it again: python docs/make_reference.py"


def test_every_exported_name_has_a_section(maker: ModuleType) -> None:
    sections = re.findall(r"^### `(\w+)`$", maker.PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(set(nextword.__all__) - {"__version__"})


def test_nothing_of_a_docstring_is_left_unread(maker: ModuleType) -> None:
    """A heading of Google's form that stands in the text was not understood as one."""
    assert not re.search(r"^ *(Args|Returns|Raises|Yields|Attributes):$\n    ", maker.PAGE.read_text(), re.MULTILINE)
    assert "<factory>" not in maker.PAGE.read_text()
    assert " object at 0x" not in maker.PAGE.read_text()
