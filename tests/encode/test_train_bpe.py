from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode.reference import train
from nextword.encode.train import train_bpe
from nextword.errors import InputError
from tests.encode.samples import CORPUS, TEXTS

WORDS = st.lists(st.sampled_from(["ab", "abc", "bca", "the", "then", "é", "中文", "12", "!?"]), min_size=1) | st.lists(
    st.text("ab", min_size=1, max_size=12),
    min_size=1,  # pairs that overlap: aaa, abab
)


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=6).map(" ".join), st.integers(256, 290))
@settings(deadline=None, max_examples=40)
def test_it_learns_what_the_definition_learns(text: str, vocab: int) -> None:
    tokenizer = train_bpe([text], vocab, special=())
    learned = train(text, vocab)
    assert [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)] == list(learned.ranks)
    assert tokenizer.encode(text) == learned.encode(text)


def test_it_learns_what_the_definition_learns_of_a_real_text() -> None:
    tokenizer = train_bpe([CORPUS], 420, special=("<|endoftext|>",))
    learned = [token for token in train(CORPUS, 419).ranks if len(token) > 1]
    assert [tokenizer.token_bytes(id) for id in range(257, 420)] == learned


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_any_text_survives_whatever_was_learned(text: str) -> None:
    tokenizer = train_bpe([text, "some other text"], 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_come_first_and_the_first_begins_and_ends_a_text() -> None:
    tokenizer = train_bpe([CORPUS], 300, special=("<end>", "<start>"))
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer.eos_ids == {0}
    assert tokenizer.bos_id == 0
    assert tokenizer.encode("a", begin=True) == [0, *tokenizer.encode("a")]
    assert {tokenizer.token_bytes(id) for id in range(2, 258)} == {bytes([byte]) for byte in range(256)}
    assert tokenizer.vocab_size == 300
    bare = train_bpe([CORPUS], 300, special=())
    assert (bare.bos_id, bare.eos_ids, bare.encode("", begin=True)) == (None, frozenset(), [])


def test_a_vocabulary_for_conversations_has_the_marks_of_turns_and_a_template() -> None:
    tokenizer = train_bpe([CORPUS], 300, chat=True)
    assert tokenizer.special_ids == {0, 1, 2}
    assert [tokenizer.token_text(id) for id in range(3)] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (0, {0, 2}, 300)
    asked = tokenizer.decode(tokenizer.chat([{"role": "user", "content": "a pie?"}]))
    assert asked == "<|endoftext|><|im_start|>user\na pie?<|im_end|>\n<|im_start|>assistant\n"
    assert train_bpe([CORPUS], 300).chat_template is None
    with pytest.raises(InputError, match="at least 259"):
        train_bpe([CORPUS], 258, chat=True)


def test_nothing_is_learned_that_occurs_once() -> None:
    assert train_bpe(["once"], 5_000).vocab_size == 257
    assert train_bpe([], 300).vocab_size == 257


def test_the_same_texts_give_the_same_vocabulary_in_any_number_of_threads() -> None:
    code = (
        "from nextword.encode.train import train_bpe; from tests.encode.samples import CORPUS;"
        "print(train_bpe(CORPUS.splitlines(), 400).hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ({"TOKENIZERS_PARALLELISM": "false"}, {"RAYON_NUM_THREADS": "2"})
    }
    assert hashes == {train_bpe(CORPUS.splitlines(), 400).hash + "\n"}


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(InputError, match="at least 257"):
        train_bpe([CORPUS], 256)
    with pytest.raises(InputError, match="different"):
        train_bpe([CORPUS], 300, special=("<a>", "<a>"))
    with pytest.raises(InputError, match="text 1 .* surrogate"):
        train_bpe(["fine", "a\ud800"], 300)
