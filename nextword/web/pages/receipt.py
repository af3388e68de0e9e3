"""Receipts as HTML files, written and read.

Promises: the file loads nothing from elsewhere, and its Content-Security-Policy forbids it; whatever stands in a prompt
or in a text appears as text and never as markup; the file holds the whole receipt as JSON, so that it can be replayed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from nextword.base import html
from nextword.base.atomic import atomic_write
from nextword.base.text import printable
from nextword.errors import CorruptFile, InputError

LARGEST = 64 << 20  # bytes: of a file that is read as a receipt
STATIONS = (  # titles, and the elements of each with the path of their data in the receipt
    ("What it read", (("tokens", "prompt"), ("merges", "views.merges"))),
    ("Through the layers", (("lens", "lens"), ("attention", "views.attention"))),
    ("The probabilities", (("distribution", "distribution"),)),
    ("The draw", (("draw", "draw"),)),
    ("The word", ()),
    ("Why", (("leave-one-out", "views.leave_one_out"), ("why", "why"))),
    ("Where from", (("sources", "sources"), ("bigrams", "views.bigrams"))),
)
ELEMENTS = tuple(name for _, elements in STATIONS for name, _ in elements)
HEADINGS = {
    "merges": "How the tokens were made",
    "attention": "Where it looked",
    "leave-one-out": "Leaving out a word",
    "why": "Taking the model apart",
    "bigrams": "After this word",
}
_DEEDS = {"drawn": "drew", "greedy": "found most probable", "named": "was asked about"}
_HELD = re.compile(r'<script type="application/json" id="receipt">(.*?)</script>', re.DOTALL)


def render(receipt: Mapping[str, Any]) -> str:
    """The HTML page of a receipt (trace/receipt); of one with views, the larger page that draws them too."""
    views = "views" in receipt
    stations = [
        (title, [each for each in elements if views or not each[1].startswith("views.")])
        for title, elements in STATIONS
    ]
    script = page_script(tuple(name for _, elements in stations for name, _ in elements))
    return _template().render(
        css=Markup(page_css()),
        script=Markup(script),
        script_hash=html.script_hash(script),
        data=Markup(html.inline_json(receipt)),
        token=receipt["why"]["token"]["token"],
        prompt=receipt["prompt"]["text"],
        deed=_DEEDS[receipt["draw"]["how"]],
        components=receipt["why"]["components"],
        model=receipt["model"],
        hashes=list(receipt["hashes"].items()),
        version=receipt["nextword"],
        stations=stations,
        headings=HEADINGS if views else {},
    )


def write_page(path: Path, receipt: Mapping[str, Any]) -> None:
    """Write the page of a receipt; the file appears whole or not at all. Raises NoDiskRoom, OSError."""
    atomic_write(path, render(receipt).encode())


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt in a file of JSON or in a page that `render` made.

    Raises:
        InputError: The file cannot be read.
        CorruptFile: The file holds no receipt.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a receipt that explain wrote.") from error
    try:
        if len(data) > LARGEST:
            raise ValueError("it is too large")
        text = data.decode()
        held = _HELD.search(text)
        receipt = json.loads(held[1] if held else text)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} holds no receipt ({error}); write one with explain --html or --json.") from error
    if not isinstance(receipt, dict) or "receipt" not in receipt:
        raise CorruptFile(f"{path} holds no receipt; write one with explain --html or --json.")
    return receipt


def page_css() -> str:
    """The styles of the elements and those of the page."""
    return _file("elements/theme.css") + _file("receipt.css")


@cache
def page_script(elements: tuple[str, ...]) -> str:
    """The elements by name and the page's own code joined into one module, without their imports of each other."""
    joined = "\n".join(
        _file(f"elements/{name}.js") for name in ("parts", *elements)
    )  # `parts`, which the others import, first
    joined = re.sub(r'^import .* from "\./\w+\.js";\n', "", joined, flags=re.MULTILINE)
    return re.sub(r"^export ", "", joined, flags=re.MULTILINE) + _file("receipt.js")


@cache
def _template() -> Template:
    environment = html.environment()
    environment.filters["visible"] = printable
    return environment.from_string(_file("receipt.html.jinja"))


def _file(name: str) -> str:
    return files("nextword.web.pages").joinpath(name).read_text("utf-8")
