"""Types of values that every folder passes on; torch is not needed for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
"""A JSON object: null, numbers, strings, lists and such objects by key."""

TokenText = Callable[[int], str]
"""Decodes one token: the text of an id, as it is shown to people."""
