"""Documents -> what `shards.write_shards` takes: ids, the mask of the loss, provenance.

A text is the token that begins texts, then its ids; its loss counts everywhere. A conversation is written by
the model's own chat template, and its loss counts on the answers only: on what the template writes for each
turn of the assistant after the prompt that asks for it, the end of the turn included. Texts pass through in
portions, so memory does not grow with the corpus; the order is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from nextword.corpus.document import Document, Message
from nextword.encode.bulk import BulkEncoder
from nextword.encode.shards import EncodedDocument
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError, UnknownToken

_PORTION = 1 << 25  # characters encoded at a time


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document], *, begin: int) -> Iterator[EncodedDocument]:
    """Each document as (ids, mask or None, provenance); `begin` is the id of the token that begins a text.

    Raises InputError for text that the tokenizer cannot hold, for a conversation without an answer or one
    that the tokenizer's chat template refuses, and TokenizerError if there is no such template.
    """
    encoder = BulkEncoder(tokenizer)
    first = np.array([begin], np.uint32)
    for portion in _portions(documents):
        encoded = iter(encoder.encode([document.text for document in portion if document.messages is None]))
        for document in portion:
            if document.messages is None:
                yield np.concatenate((first, next(encoded))), None, document.provenance
            else:
                yield *_conversation(tokenizer, document, document.messages), document.provenance


def token_sizes(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """How many bytes of text each token stands for, uint16 [vocab]; 0 for special tokens and unused ids."""
    sizes = np.zeros(tokenizer.vocab_size, np.uint16)
    for id in range(tokenizer.vocab_size):
        if id not in tokenizer.special_ids:
            with suppress(UnknownToken):
                sizes[id] = len(tokenizer.token_bytes(id))
    return sizes


def _portions(documents: Iterable[Document]) -> Iterator[list[Document]]:
    portion: list[Document] = []
    size = 0
    for document in documents:
        portion.append(document)
        size += len(document.text)
        if size >= _PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _conversation(
    tokenizer: Tokenizer, document: Document, messages: tuple[Message, ...]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """The ids of a conversation, and 1 for the ids that answer.

    An answer is found as what the template adds to the conversation before it and the prompt for an answer;
    a template that rewrites earlier turns once later ones are known gives no such place, and is refused.
    """
    where = f"{document.source}:{document.line}"
    turns = [{"role": message.role, "content": message.content} for message in messages]
    ids = tokenizer.chat(turns, add_generation_prompt=False)
    mask = np.zeros(len(ids), np.uint8)
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            asked = tokenizer.chat(turns[:i])
            answered = tokenizer.chat(turns[: i + 1], add_generation_prompt=False)
            if ids[: len(asked)] != asked or ids[: len(answered)] != answered:
                raise InputError(
                    f"{where}: the chat template does not keep this conversation's turns as they were when "
                    "they were said, so the answers cannot be told from the rest; give one answer a record."
                )
            mask[len(asked) : len(answered)] = 1
    if not mask.any():
        raise InputError(f"{where}: no message has the role 'assistant', so there is no answer to learn.")
    return np.array(ids, np.uint32), mask
