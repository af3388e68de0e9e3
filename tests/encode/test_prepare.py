"""From documents to shards: the ids are the tokenizer's, bytes are counted exactly, only answers are learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nextword.corpus.documents import Document, Message
from nextword.encode import prepare
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import InputError, TokenizerError

TEXTS = ["She ate an apple pie.", "Äpfel, été, 猫 🙂\r\n\x00<|endoftext|>", "", " an apple tree" * 40]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 300, chat=True)


def talk(*turns: tuple[str, str]) -> Document:
    return Document("written out", "talk.jsonl", 4, messages=tuple(Message(*turn) for turn in turns))


@pytest.mark.parametrize("portion", [1, 1 << 24])
def test_texts_begin_with_the_begin_token_and_keep_order_and_provenance(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(prepare, "_PORTION_CHARACTERS", portion)
    documents = [Document(text, "a.txt", i) for i, text in enumerate(TEXTS)]
    encoded = list(encode_documents(tokenizer, iter(documents), begin=0))
    assert [ids.tolist() for ids, _, _ in encoded] == [[0, *tokenizer.encode(text)] for text in TEXTS]
    assert all(mask is None for _, mask, _ in encoded)
    assert [provenance["line"] for _, _, provenance in encoded] == [0, 1, 2, 3]


def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    sizes = token_sizes(tokenizer)
    assert sizes[:3].tolist() == [0, 0, 0]
    documents = [Document(text, "a.txt", i) for i, text in enumerate(TEXTS)]
    shards = write_shards(tmp_path / "s", encode_documents(tokenizer, documents, begin=0), token_bytes=sizes)
    assert shards.bytes == sum(document.n_bytes for document in documents)
    assert tokenizer.decode(shards.tokens[shards.starts[1] + 1 : shards.starts[2]].tolist()) == TEXTS[1]


def test_only_the_answers_of_a_conversation_count(tokenizer: Tokenizer) -> None:
    ((ids, mask, provenance),) = encode_documents(
        tokenizer, [talk(("user", "a pie?"), ("assistant", "an apple"))], begin=0
    )
    assert mask is not None
    assert provenance["line"] == 4
    assert tokenizer.decode(ids[mask == 1].tolist()) == "an apple<|im_end|>"


def test_texts_and_conversations_may_be_mixed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [Document("an apple", "a", 1), talk(("user", "x"), ("assistant", "pie")), Document("pie", "a", 2)]
    encoded = encode_documents(tokenizer, documents, begin=0)
    shards = write_shards(tmp_path / "s", encoded, token_bytes=token_sizes(tokenizer))
    assert shards.mask is not None
    sums = [int(np.sum(shards.mask[a:b])) for a, b in zip(shards.starts, shards.starts[1:], strict=False)]
    lengths = np.diff(shards.starts)
    assert (sums[0], sums[2]) == (lengths[0], lengths[2])
    assert 0 < sums[1] < lengths[1]


def test_a_conversation_that_cannot_be_learned_from_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="no chat template"):
        list(encode_documents(train_bpe(TEXTS, 300), [talk(("user", "x"), ("assistant", "y"))], begin=0))
    with pytest.raises(InputError, match="talk.jsonl:4: no message has the role 'assistant'"):
        list(encode_documents(tokenizer, [talk(("user", "x"))], begin=0))
