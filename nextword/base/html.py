"""HTML files that hold any text as text: templates that escape, JSON inside a script element, hashes for a CSP.

Promises: a value that is put into a template appears as text and never as markup; a template that uses a name without
a value is an error; no character of inlined JSON means anything to an HTML parser.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, StrictUndefined


def environment(finalize: Callable[[Any], Any] | None = None) -> Environment:
    """A jinja2 environment for pages.

    Args:
        finalize: Called with every value before the value is written; None writes values as they are.

    >>> environment().from_string("<p>{{ text }}</p>").render(text="1 < 2")
    '<p>1 &lt; 2</p>'
    """
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )


def script_hash(script: str) -> str:
    """The SHA-256 of a script's text in base64, as a Content-Security-Policy names the script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def inline_json(value: object) -> str:
    r"""JSON that can stand inside a script element: no character of the result means anything to HTML.

    >>> print(inline_json({"text": "</script>"}))
    {"text": "\u003c/script\u003e"}
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ": "))  # ASCII
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
