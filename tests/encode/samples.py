"""Awkward texts, and small tokenizers of every kind to try them on."""

from __future__ import annotations

import functools
import json
from typing import Any

import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe

CORPUS = (
    "The quick brown fox jumps over the lazy dog; the dog doesn't mind, and the fox'll do it again at 10:45.\n"
    "She ate an apple pie, and another apple pie, and then the other apple.\n\n"
    "def f(x):\n    return x + 1  # adds one\n\n\tprint(f(41))\r\n"
    "Äpfel und Birnen, été à la plage, señor, Ω = 3.14159, привет мир, 你好世界, こんにちは, 안녕하세요 🙂👩\u200d👧.\n"
) * 8

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

WORDS = [
    *("the", "apple", "don't", "I'LL", "\u017f'\u017f", "foo_bar", "3.14159", "https://", "café", "cafe\u0301"),
    *("中文", "日本語", "हिन्दी", "Ω", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪"),
    *("\u00a0", "\u3000", "\x00", "\x1c", "\x85", "\u2028"),
    *(" ", "  ", "\n", "\r\n", "\t", " \n ", " " * 7, " " * 26, "\n" * 5, "a" * 40, "1" * 11, "!?" * 9),
    *SPECIAL,
    *("<|im", "_end|>", "<s>", "</s>", "<unk>", "<0x41>"),
]

# Characters that every Unicode table in use agrees about, all planes, no surrogates.
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=40),
    st.lists(st.sampled_from(WORDS) | st.text(CHARACTERS, max_size=3), max_size=12).map("".join),
    st.lists(st.tuples(st.sampled_from(list(" \n\t\r\u00a0a1.")), st.integers(1, 40)), max_size=8).map(
        lambda runs: "".join(char * length for char, length in runs)
    ),
)


@functools.cache
def byte_level() -> Tokenizer:
    """Trained here, 600 tokens, with a chat's special tokens."""
    return train_bpe([CORPUS], 600, special=SPECIAL)


@functools.cache
def sentencepiece_backend() -> tokenizers.Tokenizer:
    """Of the shape of Llama 2's: spaces as ▁, one put before the text, bytes for rare characters, no pattern."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # while it learns
    names = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        special_tokens=[*names, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=90,
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    spec = json.loads(backend.to_str())
    spec["pre_tokenizer"] = None
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in names]
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


@functools.cache
def sentencepiece() -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer.from_json(sentencepiece_backend().to_str(), config)


def spec_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of the tokenizer.json that this tokenizer saves."""
    spec: dict[str, Any] = json.loads(tokenizer._json)
    return spec


@functools.cache
def reference(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, run by the `tokenizers` library alone."""
    return tokenizers.Tokenizer.from_str(tokenizer._json)


@functools.cache
def plain_reference(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same, reading special tokens as text."""
    backend = tokenizers.Tokenizer.from_str(tokenizer._json)
    backend.encode_special_tokens = True
    return backend
