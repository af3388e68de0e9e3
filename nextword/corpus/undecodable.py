"""The ways to treat text that is not UTF-8, apart from what reads text: the command line offers them without it."""

from __future__ import annotations

from typing import Literal

# skip: the record is left out and counted; replace: each wrong byte becomes U+FFFD; latin-1: it is read as Latin-1.
Undecodable = Literal["skip", "replace", "latin-1"]
