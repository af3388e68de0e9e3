"""Keeping special tokens out of a conversation's messages.

Promise: whatever a message says, the rendered conversation spells no special token that the chat template did
not write itself. A mark, unknown to whoever wrote the messages, breaks up every spelling of a special token
in them before the template runs; messages without one pass unchanged. After the template's own special tokens
are told apart, taking the mark out gives back the words.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nextword.errors import InputError


def new_mark() -> str:
    """A run of digits that no text holds by chance: digits pass through every filter unchanged."""
    return str(secrets.randbelow(10**24) + 10**24)


def replace_all(text: str, names: Mapping[str, str]) -> str:
    """`text` with every key of `names`, the longest first, replaced by its value."""
    return re.sub(_any_of(names), lambda match: names[match.group()], text) if names else text


def _any_of(names: Collection[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def defuse(messages: Sequence[Mapping[str, Any]], special: Collection[str], mark: str) -> list[dict[str, Any]]:
    """A copy of `messages` in which `mark` breaks up whatever spells a special token, or could complete one.

    Taking the mark out of the rendered text, after its own special tokens are told apart, gives back the
    words. Raises InputError for a role or a key that spells a special token, and for values that are not
    JSON.
    """
    if not all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages):
        raise InputError("Each message of a conversation needs a role, and most need a content.")
    defuser = _Defuser(special, mark)
    return [{**defuser.mapping(message), "role": defuser.name(message["role"])} for message in messages]


def defuse_value(value: Any, special: Collection[str], mark: str) -> Any:
    """A copy of a JSON value, treated as `defuse` treats what a message holds. Raises InputError as it does."""
    return _Defuser(special, mark).value(value)


class _Defuser:
    def __init__(self, special: Collection[str], mark: str) -> None:
        self.mark = mark
        self.special = tuple(special)
        self.any = re.compile(_any_of(special)) if special else None
        self.begins = tuple({name[:cut] for name in special for cut in range(1, len(name))})
        self.ends = tuple({name[cut:] for name in special for cut in range(1, len(name))})

    def mapping(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {self.name(key): self.value(item) for key, item in value.items()}

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return self.mapping(value)
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        raise InputError(f"A message holds a {type(value).__name__}; use text, numbers, lists and objects only.")

    def name(self, name: Any) -> str:
        if not isinstance(name, str) or (self.any and self.any.search(name)):
            raise InputError(f"{name!r} cannot be a role or a key of a message: it is no name, but a special token.")
        return name

    def text(self, text: str) -> str:
        if self.any is None:
            return text
        # Every place where a special token starts, overlapping ones too.
        broken = re.sub(f"(?=(?:{self.any.pattern}))(.)", rf"\g<1>{self.mark}", text, flags=re.DOTALL)
        if self.any.search(broken):
            raise InputError("A message holds a special token of a single character; leave it out.")
        body = broken.strip()
        if body and (body.endswith(self.begins) or body.startswith(self.ends) or any(body in s for s in self.special)):
            head, tail = broken[: broken.index(body)], broken[broken.index(body) + len(body) :]
            broken = f"{head}{self.mark}{body}{self.mark}{tail}"
        return broken
