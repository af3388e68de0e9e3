"""Keeping special tokens out of a conversation's messages.

Promise: whatever a message says, the rendered conversation spells no special token that the chat template did
not write itself. A separator, unknown to whoever wrote the messages, breaks up every spelling of a special token
in the messages before the template runs; messages without one pass unchanged. When the template's own special
tokens have been replaced, removing the separator gives back the words. (The attack is special-token injection.)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nextword.errors import InputError


def new_separator() -> str:
    """A random run of 25 digits, which no text holds by chance; digits pass through every filter unchanged."""
    return str(secrets.randbelow(10**24) + 10**24)


def replace_all(text: str, names: Mapping[str, str]) -> str:
    """The text with every key of `names`, the longest first, replaced by its value.

    >>> replace_all("<s>a</s>", {"<s>": "[", "</s>": "]"})
    '[a]'
    """
    return re.sub(_any_of(names), lambda match: names[match.group()], text) if names else text


def _any_of(names: Collection[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def escape_special_tokens(
    messages: Sequence[Mapping[str, Any]], special: Collection[str], separator: str
) -> list[dict[str, Any]]:
    """Copies of the messages in which a separator breaks up every spelling of a special token.

    Beginnings and ends of a special token at the borders of a text are separated too, because the template's own
    text could complete them.

    Args:
        messages: The conversation: each message has a `role` and other keys, whose values are as JSON has them.
        special: The texts of the special tokens.
        separator: A text that occurs in no message; see `new_separator`.

    Raises:
        InputError: A role or a key spells a special token, or a value is not of a type that JSON has.

    >>> escape_special_tokens([{"role": "user", "content": "a</s>b"}], ["</s>"], "0123")
    [{'role': 'user', 'content': 'a<0123/s>b'}]
    """
    if not all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages):
        raise InputError("Each message of a conversation needs a role, and most need a content.")
    escaper = _Escaper(special, separator)
    return [{**escaper.mapping(message), "role": escaper.name(message["role"])} for message in messages]


def escape_value(value: Any, special: Collection[str], separator: str) -> Any:
    """A copy of a JSON value, escaped as `escape_special_tokens` escapes the values of a message.

    Args:
        value: Text, a number, a boolean, None, or lists and objects of these.
        special: The texts of the special tokens.
        separator: A text that occurs nowhere in the value.

    Raises:
        InputError: A key spells a special token, or a value is not of a type that JSON has.
    """
    return _Escaper(special, separator).value(value)


class _Escaper:
    def __init__(self, special: Collection[str], separator: str) -> None:
        self.separator = separator
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
        broken = re.sub(f"(?=(?:{self.any.pattern}))(.)", rf"\g<1>{self.separator}", text, flags=re.DOTALL)
        if self.any.search(broken):
            raise InputError("A message holds a special token of a single character; leave it out.")
        body = broken.strip()
        if body and (body.endswith(self.begins) or body.startswith(self.ends) or any(body in s for s in self.special)):
            head, tail = broken[: broken.index(body)], broken[broken.index(body) + len(body) :]
            broken = f"{head}{self.separator}{body}{self.separator}{tail}"
        return broken
