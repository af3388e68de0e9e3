"""A tokenizer as the metadata of a GGUF file: the inverse of `gguf.py`.

nextword and llama.cpp read the metadata back as a tokenizer with the same ids. The format holds the name of a
pre-tokenizer but not its patterns, so a tokenizer whose patterns have no name is refused, and so is everything else
that the format cannot say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.encode.bytelevel import DIGIT, GPT2
from nextword.encode.gguf import BYTE_TOKENS, PRE, PREFIX, ROLES, PreTokenizerRules, TokenType, merges_by_score
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.tokenizer_json import SPACE, named_token
from nextword.errors import TokenizerError


def tokenizer_to_gguf(tokenizer: Tokenizer, size: int, stop_ids: Collection[int]) -> dict[str, Any]:
    """The metadata that describe a tokenizer to llama.cpp and to `tokenizer_from_gguf`.

    Args:
        tokenizer: The tokenizer.
        size: The number of rows of the model's embedding, at least the tokenizer's `vocab_size`; rows without a
            token get one of type UNUSED.
        stop_ids: The ids that end a text. The format has two roles for them, "eos" and "eot"; ids to which the
            tokenizer itself gives these roles have precedence.

    Raises:
        TokenizerError: The format cannot say something of this tokenizer.
    """
    spec, config = tokenizer.spec(), tokenizer.config
    tokens, kinds = _tokens(spec, size)
    byte_level = spec["decoder"].get("type") == "ByteLevel"
    keys = {
        **(_byte_level(spec) if byte_level else _sentencepiece(spec, tokens, kinds)),
        "tokens": tokens,
        "token_type": kinds,
        **_named_ids(spec["model"]["vocab"], config, stop_ids),
        **_around(tokenizer, config),
    }
    metadata = {PREFIX + key: value for key, value in keys.items()}
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _refusal(what: str) -> TokenizerError:
    return TokenizerError(f"This model's tokenizer {what}, which a GGUF file cannot say; export it to hf instead.")


def _tokens(spec: Mapping[str, Any], size: int) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The tokens by their ids, and the type of each, int32 [size]."""
    model = spec["model"]
    tokens = [f"[PAD{id}]" for id in range(size)]
    kinds = np.full(size, TokenType.UNUSED, np.int32)
    fallback = bool(model.get("byte_fallback"))
    for token, id in model["vocab"].items():
        tokens[id] = token
        kinds[id] = TokenType.BYTE if fallback and token in BYTE_TOKENS else TokenType.NORMAL
    for added in spec["added_tokens"]:
        if any(added.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise _refusal(f"finds {added['content']!r} by what stands beside it")
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if fallback and (unknown := model.get("unk_token")) is not None:
        kinds[model["vocab"][unknown]] = TokenType.UNKNOWN
    return tokens, kinds


def _named_ids(vocab: Mapping[str, int], config: Mapping[str, Any], stop_ids: Collection[int]) -> dict[str, int]:
    named = {role: vocab[token] for role in ROLES if (token := named_token(config, f"{role}_token")) is not None}
    ends = [id for role in ("eos", "eot") if (id := named.pop(role, None)) is not None]
    named |= dict(zip(("eos", "eot"), dict.fromkeys([*ends, *sorted(stop_ids)]), strict=False))
    return {f"{ROLES[role]}_token_id": id for role, id in named.items()}


def _around(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, bool]:
    """Whether encoding puts the beginning token before a text, and the end token after it."""
    plain, whole = tokenizer.encode("a"), tokenizer.encode("a", begin=True)
    end = named_token(config, "eos_token")
    ends = [] if end is None else tokenizer.encode(end, special=True)
    for first in ([], [tokenizer.bos_id]):
        for last in ([], ends):
            if whole == [*first, *plain, *last]:
                return {"add_bos_token": bool(first), "add_eos_token": bool(last)}
    raise _refusal("puts other tokens around a text than the one that begins and the one that ends it")


def _byte_level(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": "gpt2", "pre": _pre(spec), "merges": [" ".join(pair) for pair in spec["model"]["merges"]]}


def _pre(spec: Mapping[str, Any]) -> str:
    """llama.cpp's name of this tokenizer's pre-tokenizer."""
    patterns, nfc = _patterns(spec.get("pre_tokenizer") or {}), _nfc(spec.get("normalizer") or {})
    rules = PreTokenizerRules(patterns, whole_pieces=bool(spec["model"].get("ignore_merges")), nfc=nfc)
    for name, known in PRE.items():
        if replace(known, adds_bos=False) == rules:
            return name
    raise _refusal("cuts text by a pattern that llama.cpp has no name for")


def _patterns(pre_tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns from which `bytelevel.pre_tokenizer` makes this pre-tokenizer."""
    *before, last = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise _refusal("does not cut text by patterns alone")
    return (*map(_pattern, before), *([GPT2] if last.get("use_regex", True) else []))


def _pattern(step: Mapping[str, Any]) -> str:
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return DIGIT
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern: str = step["pattern"].get("Regex", "")
        return pattern
    raise _refusal("does not cut text by patterns alone")


def _nfc(normalizer: Mapping[str, Any]) -> bool:
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    if any(step != {"type": "NFC"} for step in steps):
        raise _refusal("rewrites text before it cuts it")
    return bool(steps)


def _sentencepiece(spec: Mapping[str, Any], tokens: list[str], kinds: npt.NDArray[np.int32]) -> dict[str, Any]:
    """SentencePiece's BPE: the score of a token is minus the rank of the first merge that makes the token.

    Readers derive the merges from the scores. So the tokenizer's merges must be all those that the tokens allow, in
    the same order, except among merges that make the same token.
    """
    prefixed = _puts_space(spec)
    merges = [tuple(pair) for pair in spec["model"]["merges"]]
    made = list(dict.fromkeys("".join(pair) for pair in merges))
    place = {token: rank for rank, token in enumerate(made)}
    scores = np.array([-place.get(token, 0) for token in tokens], np.float32)
    normal = {tokens[id]: float(scores[id]) for id in np.flatnonzero(kinds == TokenType.NORMAL)}
    read = merges_by_score(normal)
    if set(read) != set(merges) or made != list(dict.fromkeys("".join(pair) for pair in read)):
        raise _refusal("merges in an order that no scores of tokens give")
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefixed}


def _puts_space(spec: Mapping[str, Any]) -> bool:
    """Whether encoding puts a space before a text."""
    model, normalizer = spec["model"], spec.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefixed: bool = steps == [{"type": "Prepend", "prepend": SPACE}, to_mark]
    if spec.get("pre_tokenizer") is not None or not (prefixed or steps == [to_mark]):
        raise _refusal("marks spaces in a way of its own")
    if not model.get("byte_fallback") or not set(BYTE_TOKENS) <= model["vocab"].keys() or model.get("ignore_merges"):
        raise _refusal("does not spell unknown characters as bytes")
    return prefixed
