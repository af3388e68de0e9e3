"""The tokenizer stored inside a GGUF file, from the file's metadata as a plain mapping.

A GGUF file holds the tokens, their types and their merges or scores, but only the name of the pre-tokenizer
(`tokenizer.ggml.pre`), not its patterns. The patterns here are those of the models that the names stand for; a
name that is not in the table is refused, because a wrong pattern gives wrong ids without an error. Ids are those of
the model's Hugging Face tokenizer; llama.cpp gives the same, except for text that is not in Unicode's form NFC,
which llama.cpp does not normalise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from nextword.encode.bytelevel import DIGIT, GPT2, LLAMA3, QWEN2, added_token, byte_level_json
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.tokenizer_json import SPACE, around
from nextword.errors import TokenizerError

PREFIX = "tokenizer.ggml."
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
ROLES = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}  # Hugging Face's name: GGUF's


class TokenType(IntEnum):
    """The types of tokens in `tokenizer.ggml.token_type` (llama.h, enum llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class PreTokenizerRules:
    """The rules that a pre-tokenizer's name stands for.

    Args:
        patterns: The regular expressions that cut a text, as in `byte_level_json`.
        whole_pieces: Whether a pre-token that is itself a token becomes that token, as in `byte_level_json`.
        nfc: Whether text is normalised first, as in `byte_level_json`.
        adds_bos: Whether the beginning token is put before a text where the file does not say.
    """

    patterns: tuple[str, ...]
    whole_pieces: bool = False
    nfc: bool = False
    adds_bos: bool = False


_LLAMA_3 = PreTokenizerRules((LLAMA3,), whole_pieces=True, adds_bos=True)
_STARCODER = PreTokenizerRules((DIGIT, GPT2))
_NEOX = PreTokenizerRules((GPT2,), nfc=True)
PRE: Mapping[str, PreTokenizerRules] = {
    "default": PreTokenizerRules((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizerRules((GPT2,)),
    "phi-2": PreTokenizerRules((GPT2,)),
    "olmo": _NEOX,
    "mpt": _NEOX,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
    "refact": _STARCODER,
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "qwen2": PreTokenizerRules((QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizerRules((QWEN2,)),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describe; arrays may be lists or numpy arrays.

    Raises TokenizerError for a tokenizer that nextword does not run and for metadata that contradict each other.
    """
    kind = metadata.get(PREFIX + "model")
    if kind == "gpt2":
        return _byte_level(metadata, _Table(metadata))
    if kind == "llama":
        return _sentencepiece(metadata, _Table(metadata))
    raise TokenizerError(f"The GGUF file's tokenizer is of kind {kind!r}; nextword runs gpt2 and llama only.")


def _broken(what: str) -> TokenizerError:
    return TokenizerError(f"The GGUF file's tokenizer {what}; convert the model again.")


class _Table:
    """The tokens of the file, their types and the special ones among them, checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.tokens: list[str] = _array(metadata, "tokens", str)
        self.size = len(self.tokens)
        if not self.tokens or "" in self.tokens or len(set(self.tokens)) != self.size:
            raise _broken("has no tokens, an empty one, or the same one twice")
        self.kinds: list[int] = _array(metadata, "token_type", int) or [TokenType.NORMAL] * self.size
        if len(self.kinds) != self.size:
            raise _broken("has not one token_type for each token")
        while self.kinds and self.kinds[-1] == TokenType.UNUSED:  # rows of the embedding without a token
            del self.kinds[-1], self.tokens[-1]
        self.vocab = {token: id for id, token in enumerate(self.tokens)}
        self.metadata = metadata

    def added(self) -> list[dict[str, Any]]:
        """tokenizer.json's `added_tokens`: the control, unknown and user-defined tokens."""
        found = {int(kind) for kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)}
        return [
            added_token(self.tokens[id], id, special=kind != TokenType.USER_DEFINED)
            for id, kind in enumerate(self.kinds)
            if kind in found
        ]

    def named(self, name: str, default: int | None = None) -> str | None:
        """The token whose id the file gives for a role ("bos", ...), else the one with the default id."""
        id: Any = self.metadata.get(f"{PREFIX}{name}_token_id", default)
        if id is None:
            return None
        if not hasattr(id, "__index__") or not 0 <= id < len(self.tokens):
            raise _broken(f"names {id!r} as its {name} token, but has tokens 0 to {len(self.tokens) - 1}")
        return self.tokens[int(id)]

    def config(self, **defaults: int) -> dict[str, Any]:
        """The content of a tokenizer_config.json with the same roles; `defaults` are ids that a file may omit."""
        config: dict[str, Any] = {f"{name}_token": self.named(key, defaults.get(name)) for name, key in ROLES.items()}
        return config | {"chat_template": self.metadata.get("tokenizer.chat_template")}

    def around(self, config: Mapping[str, Any], *, adds_bos: bool) -> dict[str, Any] | None:
        """tokenizer.json's `post_processor`; what the file says has precedence over the default `adds_bos`."""
        adds_bos = bool(self.metadata.get(PREFIX + "add_bos_token", adds_bos))
        adds_eos = bool(self.metadata.get(PREFIX + "add_eos_token", False))
        first, last = config["bos_token"] if adds_bos else None, config["eos_token"] if adds_eos else None
        if (adds_bos and first is None) or (adds_eos and last is None):
            raise _broken("adds a token around a text without saying which")
        return around(self.vocab, first, last)


def _byte_level(metadata: Mapping[str, Any], table: _Table) -> Tokenizer:
    pre = metadata.get(PREFIX + "pre")
    rules = PRE.get(pre) if isinstance(pre, str) else None
    if rules is None:
        raise TokenizerError(
            f"The GGUF file cuts text by the rules called {pre!r} (tokenizer.ggml.pre), which nextword does "
            f"not know; it knows {', '.join(PRE)}."
        )
    merges = _pairs(_array(metadata, "merges", str), table.vocab)
    spec = byte_level_json(
        table.vocab, merges, rules.patterns, table.added(), whole_pieces=rules.whole_pieces, nfc=rules.nfc
    )
    config = table.config()
    return Tokenizer(spec | {"post_processor": table.around(config, adds_bos=rules.adds_bos)}, config)


def _pairs(merges: list[str], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges as pairs. One loop without calls: there are about as many merges as tokens."""
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise _broken(f"merges {merge!r}, but its vocabulary lacks a part of that")
        pairs.append((left, right))
    return pairs


def _sentencepiece(metadata: Mapping[str, Any], table: _Table) -> Tokenizer:
    """SentencePiece's BPE: no pattern; the pair whose token has the highest score is merged first."""
    if metadata.get(PREFIX + "remove_extra_whitespaces"):
        raise TokenizerError("The GGUF file's tokenizer removes spaces, which nextword does not support.")
    scores: list[float] = _array(metadata, "scores", float)
    if len(scores) != table.size or any(math.isnan(score) for score in scores):
        raise _broken("has not one score for each token")
    missing = [name for name in BYTE_TOKENS if name not in table.vocab]
    if missing:
        raise _broken(f"lacks the byte token {missing[0]}")
    normal = {token: scores[id] for token, id in table.vocab.items() if table.kinds[id] == TokenType.NORMAL}
    config = table.config(bos=1, eos=2, unk=0)
    prefix = bool(metadata.get(PREFIX + "add_space_prefix", True))
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    to_space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])]
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    spec = {
        "version": "1.0",
        "added_tokens": table.added(),
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, to_mark]},
        "pre_tokenizer": None,
        "post_processor": table.around(config, adds_bos=True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": config["unk_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": table.vocab,
            "merges": merges_by_score(normal),
        },
    }
    return Tokenizer(spec, config)


def merges_by_score(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens whose concatenation is a token, the highest score first; `scores` has the normal tokens.

    Of equal scores SentencePiece merges the leftmost pair, so that a token grows to the right: the pair with the
    longer left part comes first.

    >>> merges_by_score({"a": 0.0, "b": 0.0, "ab": -1.0, "aba": -2.0})
    [('a', 'b'), ('ab', 'a')]
    """
    pairs = [
        (token[:cut], token[cut:])
        for token in scores
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    return sorted(pairs, key=lambda pair: (-scores["".join(pair)], -len(pair[0]), -len(pair[1])))


def _array(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """An array of the file as a list of Python values; empty where the file does not have the array."""
    value = metadata.get(PREFIX + name, [])
    value = value.tolist() if hasattr(value, "tolist") else value
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, list | tuple) or not all(isinstance(item, wanted) for item in value):
        raise _broken(f"has something else than an array of {kind.__name__} as its {name}")
    return list(value)
