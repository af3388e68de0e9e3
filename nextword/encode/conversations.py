"""Conversations to learn from: their ids, and a mask of the answers.

The model's own chat template writes a conversation. An answer is the text that the template adds to the conversation
so far and its generation prompt; the loss counts on the answers, up to the token that ends the turn, and on nothing
else. (The whitespace that templates put between turns is not learned: a model has ended its turn before.)

Promises: an answer begins with a token of its own, as when the model writes one, and no token crosses that border; a
template without this border is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise

import numpy as np
import numpy.typing as npt

from nextword.corpus.document import Message
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError

# OpenAI's ChatML, as Qwen and SmolLM write it, after the token that begins a text.
TURN_BEGINS, TURN_ENDS = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_Span = tuple[int, int]  # bytes: from one place of the written conversation to another


class ConversationEncoder:
    """An encoder of conversations, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = cache(tokenizer.token_bytes)

    def encode(self, messages: Sequence[Message], where: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """The ids of a conversation, uint32 [length], and the mask, uint8 [length]: 1 where the loss counts.

        Args:
            messages: The turns.
            where: The place of the conversation ("source:line"), for errors.

        Raises:
            InputError: The conversation has no answer, or the template rewrites earlier turns when later ones follow.
            TokenizerError: The tokenizer has no usable chat template.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        ids = self._tokenizer.chat(turns, add_generation_prompt=False)
        written = self._bytes(ids)
        spans: list[_Span] = []
        for i in (i for i, turn in enumerate(turns) if turn["role"] == "assistant"):
            asked = self._bytes(self._tokenizer.chat(turns[:i]))
            answered = written
            if i + 1 < len(turns):
                answered = self._bytes(self._tokenizer.chat(turns[: i + 1], add_generation_prompt=False))
            if not (written.startswith(answered) and answered.startswith(asked)):
                raise InputError(
                    f"{where}: the chat template does not keep this conversation's turns as they were when "
                    "they were said, so the answers cannot be told from the rest; give one answer a record."
                )
            spans.append((len(asked), len(answered)))
        if not spans:
            raise InputError(f"{where}: no message has the role 'assistant', so there is no answer to learn.")
        ids = self._with_borders(ids, {start for start, _ in spans})
        if self._bytes(ids) != written:
            raise InputError(
                f"{where}: the tokenizer has no border where an answer begins; give another chat template."
            )
        return np.array(ids, np.uint32), self._mask(ids, spans)

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self._bytes_of, ids))

    def _with_borders(self, ids: Sequence[int], borders: set[int]) -> list[int]:
        """Ids of the same text, in which a token begins at each byte of `borders`.

        Where a token crosses a border, the tokens around it, up to the next special tokens, are encoded again in parts.
        """
        found: list[int] = []
        end = 0
        for special, run in groupby(ids, self._tokenizer.special_ids.__contains__):
            part = list(run)
            ends = list(accumulate((len(self._bytes_of(id)) for id in part), initial=end))
            start, end = end, ends[-1]
            inside = sorted(border for border in borders if start < border < end)
            if not special and not set(inside) <= set(ends):
                text = self._bytes(part)
                cuts = [0, *(border - start for border in inside), len(text)]
                part = [id for a, b in pairwise(cuts) for id in self._tokenizer.encode(text[a:b].decode())]
            found += part
        return found

    def _mask(self, ids: Sequence[int], spans: Sequence[_Span]) -> npt.NDArray[np.uint8]:
        """The mask [len(ids)]: 1 within the spans, but 0 for whitespace after a span's last special token."""
        ends = np.cumsum([len(self._bytes_of(id)) for id in ids])
        mask = np.zeros(len(ids), np.uint8)
        for first, last in np.searchsorted(ends, np.array(spans), side="right").tolist():
            answer = ids[first:last]
            special = self._tokenizer.special_ids
            closed = max((i + 1 for i, id in enumerate(answer) if id in special), default=len(answer))
            if self._bytes(answer[closed:]).strip():
                closed = len(answer)
            mask[first : first + closed] = 1
        return mask
