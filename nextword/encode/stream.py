"""Text from a stream of tokens, without ever showing half a character.

Promise: for any ids, the pushes and the flush concatenate to what decoding all of them at once gives.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """A decoder from one id at a time to the text that is complete; made by `Tokenizer.stream`.

    >>> from nextword.encode.openai import openai_encoding
    >>> tokenizer = openai_encoding("r50k_base")
    >>> decoder = tokenizer.stream()
    >>> [decoder.push(id) for id in tokenizer.encode("日 day")], decoder.flush()
    (['', '日', ' day'], '')
    """

    def __init__(self, token_bytes: Callable[[int], bytes], *, strips_space: bool) -> None:
        self._token_bytes = token_bytes
        self._strips_space = strips_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this token completes: "" while a character is unfinished.

        Bytes that can no longer become a character show as U+FFFD. Raises UnknownToken.
        """
        data = self._token_bytes(id)
        if data and self._strips_space:
            data, self._strips_space = data.removeprefix(b" "), False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The rest of the text at the end: U+FFFD if the last character is incomplete, else ""."""
        return self._decoder.decode(b"", final=True)
