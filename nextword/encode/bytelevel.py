"""Byte-level text: an alphabet of 256 characters for bytes, pre-tokenizer patterns, and their tokenizer.json.

A byte-level vocabulary spells every byte as one printable character (GPT-2, Radford et al., 2019), so that
any text can be written with 256 characters. Before the merges, a pattern cuts the text into pre-tokens; no token
ever crosses the border of two. The patterns here are those of the published models, in the notation that both
Oniguruma (tokenizers) and Python's `regex` understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def _alphabet() -> tuple[str, ...]:
    """One printable character for each byte: itself where it is printable, else the next one from U+0100."""
    spare = iter(range(256, 512))
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))


BYTE_TO_CHAR = _alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in enumerate(BYTE_TO_CHAR)}

# The order of the single bytes in GPT-2's vocabulary: the order of the characters that spell them.
BYTE_ORDER = tuple(sorted(range(256), key=lambda byte: BYTE_TO_CHAR[byte]))

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Unlike Llama 3's, a run of whitespace that ends the text stays whole even where it holds a line break.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s++(?!\S)|\s*[\r\n]|\s+(?!\S)|\s"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def spell(data: bytes) -> str:
    """The bytes, written in the byte-level alphabet (GPT-2's `bytes_to_unicode`).

    >>> spell(b" the\\n")
    'ĠtheĊ'
    """
    return "".join(BYTE_TO_CHAR[byte] for byte in data)


def added_token(content: str, id: int, *, special: bool) -> dict[str, Any]:
    """An entry of tokenizer.json's `added_tokens`: a text that always becomes one token.

    Args:
        content: The text.
        id: The token's id.
        special: Whether a user's text never becomes this token.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": content, **flags, "special": special}


def pre_tokenizer(patterns: Sequence[str]) -> dict[str, Any]:
    """tokenizer.json's `pre_tokenizer`: cut by each pattern in turn, then spell the pre-tokens as bytes.

    GPT-2's pattern and single digits are named rather than written out: published files do so, and other readers
    of the format recognise only the names.
    """
    builtin = patterns[-1] == GPT2
    steps = [_split(pattern) for pattern in (patterns[:-1] if builtin else patterns)]
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": builtin})
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _split(pattern: str) -> dict[str, Any]:
    if pattern == DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level_json(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    patterns: Sequence[str],
    added: Sequence[Mapping[str, Any]],
    *,
    whole_pieces: bool = False,
    nfc: bool = False,
) -> dict[str, Any]:
    """A byte-level BPE as the contents of a tokenizer.json.

    Args:
        vocab: The id of each token, spelled in the byte-level alphabet.
        merges: The pairs of tokens to merge, spelled so too, in the order of their priority.
        patterns: The regular expressions that cut a text, applied one after another.
        added: Entries of `added_tokens`; see `added_token`.
        whole_pieces: Whether a pre-token that is itself a token becomes that token, whatever the merges would make
            of it (tiktoken, Llama 3).
        nfc: Whether text is normalised to Unicode's form NFC before it is cut (Qwen, GPT-NeoX).
    """
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole_pieces,
        "vocab": dict(vocab),
        "merges": list(merges),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dict(token) for token in added],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": pre_tokenizer(patterns),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": model,
    }
