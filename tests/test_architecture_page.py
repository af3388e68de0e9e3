"""docs/architecture.md is true of the tree: its paths and functions exist, every folder is listed, laws are 1 to 9."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nextword"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.findall(r"`([^`\n]+)`", FENCE.sub("", PAGE))  # what stands in backticks


def found(path: str) -> Path | None:
    """Where a path of the page leads: below the package, or below the repository where it says so."""
    return next((base / path for base in (PACKAGE, ROOT) if (base / path).exists()), None)


@pytest.mark.parametrize(
    "path", sorted({code.split(":")[0] for code in CODE if re.fullmatch(r"\S+(\.py(:\w+)?|/)", code)})
)
def test_what_the_page_names_exists(path: str) -> None:
    assert path == "notes/" or found(path), path


@pytest.mark.parametrize("step", sorted({code for code in CODE if re.fullmatch(r"\S+\.py:\w+", code)}))
def test_a_step_of_a_walk_is_defined_where_the_page_says(step: str) -> None:
    path, name = step.split(":")
    file = found(path)
    assert file is not None
    assert re.search(rf"^ *(def|class) {name}\b", file.read_text(), re.MULTILINE), step


def test_every_folder_is_listed_where_it_lies() -> None:
    (tree,) = (fence for fence in FENCE.findall(PAGE) if fence.startswith("```\nnextword/"))
    listed, above = set(), [PACKAGE]
    for indent, name in re.findall(r"^( *)(\w+)/", tree, re.MULTILINE):
        depth = len(indent) // 2
        if depth:
            above[depth:] = [above[depth - 1] / name]
            listed.add(above[depth])
    folders = {path.parent for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert listed == folders - {PACKAGE}


def test_the_folders_of_the_table_are_in_the_order_of_the_tree() -> None:
    table = re.findall(r"^\| `([\w/]+)/` \|", PAGE, re.MULTILINE)
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")}
    inner = {"parameters/families", "web/openai", "web/studio", "web/pages"}  # their own docstrings say it
    assert set(table) == packages - inner - {"."}
    assert [each for each in table if "/" not in each][:-1] == sorted(
        each for each in table if "/" not in each and each != "cli"
    )


def test_laws_are_numbered_1_to_9_as_markdown_numbers_them() -> None:
    laws = PAGE.split("\n## Laws\n")[1].split("\n## ")[0]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", laws, re.MULTILINE)]
    assert numbers == list(range(1, 10))
    items = laws[laws.index("1. **") :].rstrip().splitlines()
    assert all(line.startswith("   ") or re.match(r"\d\. ", line) for line in items), "nothing between the items"
    for law in re.split(r"^(?=\d\. )", laws, flags=re.MULTILINE)[1:]:
        assert re.search(r"`tests/[\w/]+\.py`", law), f"held by no test: {law}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md"])
def test_lines_of_prose_are_at_most_120_characters_long(name: str) -> None:
    lines = FENCE.sub("", (ROOT / name).read_text()).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.lstrip().startswith("|")] == []
