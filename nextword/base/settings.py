"""Settings: frozen dataclasses in which each field has its range beside it and its description below it.

Whatever offers a setting (a verb's options, a request's fields, the page's sliders, the reference) reads default, range
and description here, so that there is one list of settings and one sentence about each.

    @dataclass(frozen=True)
    class Sampling:
        temperature: float = setting(1.0, "at least 0", lambda value: value >= 0, slider=Slider(0, 2, 0.05))
        '''Divides the logits.'''
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from nextword.errors import SettingError


class Slider(NamedTuple):
    """The control for a number on a page.

    Attributes:
        minimum: The smallest value it can be moved to.
        maximum: The largest value.
        step: The distance of neighbouring values.
        off: The value at which the setting changes nothing or is exceptional, and the word for that.
    """

    minimum: float
    maximum: float
    step: float
    off: tuple[float, str]


class Setting(NamedTuple):
    """One field of a settings dataclass.

    Attributes:
        name: The field's name.
        kind: The name of its type, as the source states it ("float").
        default: Its default value, None if it is made anew for each instance.
        doc: Its description.
        slider: Its control on a page, None if it has none.
    """

    name: str
    kind: str
    default: Any
    doc: str
    slider: Slider | None


@dataclass(frozen=True)
class _Rule:
    meaning: str
    holds: Callable[[Any], bool]
    slider: Slider | None


def setting(
    default: Any,
    meaning: str,
    holds: Callable[[Any], bool],
    *,
    slider: Slider | None = None,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: Its default value; ignored where there is a `factory`.
        meaning: The allowed values in words, after "must be": "between 0 and 1".
        holds: Whether a value is allowed.
        slider: Its control on a page.
        factory: Makes the default of each instance, for values that can change. Such a field does not count for hashes.
    """
    metadata = {"rule": _Rule(meaning, holds, slider)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_settings(settings: Any) -> None:
    """Raise SettingError, naming the first field whose value is not allowed."""
    for field in dataclasses.fields(settings):
        rule, value = field.metadata["rule"], getattr(settings, field.name)
        try:
            holds = rule.holds(value)
        except (TypeError, AttributeError, ValueError):  # a value of another kind
            holds = False
        if not holds:
            raise SettingError(f"{field.name} must be {rule.meaning}, not {value}.")


@cache
def settings_of(kind: type) -> Mapping[str, Setting]:
    """The settings of a dataclass by name, in the order in which they are defined."""
    docs = _field_docs(kind)
    return {
        field.name: Setting(
            field.name,
            str(field.type),
            None if field.default is dataclasses.MISSING else field.default,
            docs[field.name],
            field.metadata["rule"].slider,
        )
        for field in dataclasses.fields(kind)
    }


def _field_docs(kind: type) -> dict[str, str]:
    """The string below each field of a class, in its source."""
    module = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    (body,) = (node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value)).replace("\n", " ")
    return found
