"""Documents -> the input of `shards.write_shards`: ids, the mask of the loss, provenance.

A text becomes the beginning token and its ids, and the loss counts on all of them. A conversation is written by
the model's own chat template, and the loss counts on the answers only (`conversations.py`). Texts pass through in
portions, so memory does not grow with the corpus; the order is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from nextword.corpus.document import Document
from nextword.encode.bulk import BulkEncoder
from nextword.encode.conversations import ConversationEncoder
from nextword.encode.shards import EncodedDocument
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import UnknownToken

_PORTION_CHARACTERS = 1 << 25  # characters: encoded at a time


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document], *, begin: int) -> Iterator[EncodedDocument]:
    """Each document as (ids, mask or None, provenance): uint32 [length], uint8 [length], JSON.

    Args:
        tokenizer: The model's tokenizer.
        documents: Texts and conversations, in any order.
        begin: The id of the token that leads each text: `tokenizer.begin_id`.

    Raises:
        InputError: The tokenizer cannot hold a text; a conversation has no answer, or the chat template refuses it.
        TokenizerError: There is a conversation, and the tokenizer has no chat template.

    >>> from nextword.encode.train import train_bpe
    >>> tokenizer = train_bpe(["low lower lowest"], 300)
    >>> documents = [Document("low", "a.txt", 1)]
    >>> [(ids.tolist(), mask) for ids, mask, _ in encode_documents(tokenizer, documents, begin=tokenizer.begin_id)]
    [([0, 258], None)]
    """
    encoder, conversations = BulkEncoder(tokenizer), ConversationEncoder(tokenizer)
    first = np.array([begin], np.uint32)
    for portion in _portions(documents):
        encoded = iter(encoder.encode([document.text for document in portion if document.messages is None]))
        for document in portion:
            if document.messages is None:
                yield np.concatenate((first, next(encoded))), None, document.provenance
            else:
                where = f"{document.source}:{document.line}"
                yield *conversations.encode(document.messages, where), document.provenance


def token_sizes(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """The number of bytes of text that each token stands for, uint16 [vocab]; 0 for special tokens and unused ids."""
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
        if size >= _PORTION_CHARACTERS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
