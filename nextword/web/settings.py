"""Settings as fields of a request: one field for each setting, with its description in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from nextword.base.settings import settings_of
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling

_KINDS: dict[str, Any] = {"float": float, "int": int}


def sampling_fields(names: Container[str]) -> dict[str, Any]:
    """The named settings of `Sampling` as fields for pydantic.create_model; left out, they are DEFAULT_SAMPLING's."""
    from pydantic import Field

    return {
        name: (_KINDS[each.kind], Field(default=getattr(DEFAULT_SAMPLING, name), description=each.doc))
        for name, each in settings_of(Sampling).items()
        if name in names
    }
