"""The contents of a tokenizer.json: parsed, checked, and completed by its tokenizer_config.json.

Only byte-pair encodings are accepted, in the two spellings that language models use: byte-level (GPT-2 and
after) and SentencePiece-like, with "▁" for the space and <0xNN> for bytes that have no character in the
vocabulary. Everything else that a file may say is refused with one sentence, so that ids are never silently wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextword.encode.bytelevel import BYTE_TO_CHAR, added_token
from nextword.errors import TokenizerError

SPACE = "▁"
_NAMED = (
    "bos_token",
    "eos_token",
    "eot_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_NAMED_LISTS = ("additional_special_tokens", "extra_special_tokens")
_UTF8_BYTES = frozenset(range(0xC0)) | frozenset(range(0xC2, 0xF5))


@dataclass(frozen=True)
class Spelling:
    """The way in which a vocabulary spells text.

    Args:
        byte_level: Whether each character of a token stands for a byte; else "▁" stands for a space.
        byte_fallback: Whether the token <0xNN> stands for the byte NN.
        strips_space: Whether encoding puts a space before the text and decoding removes that space.
    """

    byte_level: bool
    byte_fallback: bool = False
    strips_space: bool = False


def parse(text: str | bytes) -> dict[str, Any]:
    """Parse a tokenizer.json; `validate` checks the content. Raises TokenizerError for anything but a JSON object."""
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer.json is not valid JSON ({error}); fetch the file again.") from error
    if not isinstance(spec, dict):
        raise TokenizerError("tokenizer.json does not hold an object; fetch the file again.")
    return spec


def validate(spec: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], Spelling]:
    """A tokenizer.json checked and completed by its tokenizer_config.json, and its spelling. Raises TokenizerError."""
    try:
        whole = _complete(_check(spec), config)
        return whole, _spelling(whole)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # a list where an object should be, ...
        raise TokenizerError(
            f"The tokenizer's files do not have the form they should ({error}); fetch them again."
        ) from error


def _check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a tokenizer.json, checked.

    The result has every added token in the model's vocabulary too, so that no reader can give the token another
    id, merges as pairs, and neither truncation nor padding.
    """
    model = spec.get("model")
    if not isinstance(model, dict):
        raise TokenizerError("tokenizer.json has no model; fetch the file again.")
    _check_model(model)
    vocab = _check_vocab(model.get("vocab"))
    added = [_check_added(token, vocab) for token in _objects(spec.get("added_tokens") or [], "added_tokens")]
    vocab |= {token["content"]: token["id"] for token in added}
    if len({token["content"] for token in added}) != len(added):
        raise TokenizerError("tokenizer.json adds a token twice; fetch the file again.")
    return {
        **spec,
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "model": {**model, "vocab": vocab, "merges": _check_merges(model.get("merges"))},
    }


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        raise TokenizerError(f"The tokenizer is a {kind} model; nextword runs byte-pair encodings (BPE) only.")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(f"The tokenizer's BPE uses {key} = {model[key]!r}, which nextword does not support.")


def _check_vocab(vocab: object) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerError("tokenizer.json has no vocabulary; fetch the file again.")
    for token, id in vocab.items():
        if type(id) is not int or not 0 <= id < 2**31:
            raise TokenizerError(f"tokenizer.json gives token {token!r} the id {id!r}; fetch the file again.")
    return dict(vocab)


def _check_merges(merges: object) -> list[tuple[str, str]]:
    """The merges as pairs. Older files write a pair as one string with a space, maybe after a line "#version"."""
    if not isinstance(merges, list):
        raise TokenizerError("tokenizer.json has no list of merges; fetch the file again.")
    pairs = []
    for merge in merges:
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0] + pair[1], str):
            raise TokenizerError(f"tokenizer.json has a merge that is no pair of tokens: {merge!r:.100}.")
        pairs.append((pair[0], pair[1]))
    return pairs


def _check_added(token: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[str, Any]:
    content, id = token.get("content"), token.get("id")
    if not isinstance(content, str) or not content or type(id) is not int or not 0 <= id < 2**31:
        raise TokenizerError(f"tokenizer.json has an added token without text or id: {token!r}; fetch the file again.")
    if vocab.get(content, id) != id:
        raise TokenizerError(
            f"tokenizer.json gives the added token {content!r} two ids, {vocab[content]} and {id}; "
            "fetch the file again."
        )
    return added_token(content, id, special=False) | dict(token)


def _objects(value: object, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TokenizerError(f"tokenizer.json's {what} is not a list of objects; fetch the file again.")
    return value


def _complete(spec: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json completed by its tokenizer_config.json.

    Tokens that the config names (bos_token, ...) are special, and tokens that it lists are added. The tokens around
    a text are those of tokenizer.json's own `post_processor`, as in transformers.
    """
    vocab, added = dict(spec["model"]["vocab"]), {token["content"]: token for token in spec["added_tokens"]}
    for id, entry in (config.get("added_tokens_decoder") or {}).items():
        if isinstance(entry, Mapping) and entry.get("content") not in added:
            token = _check_added({**entry, "id": int(id)}, vocab)
            added[token["content"]] = token
    for content in _special_tokens(config):
        if content in vocab or content in added:
            known = added.get(content) or added_token(content, vocab[content], special=True)
            added[content] = known | {"special": True}
    ids = {**vocab, **{content: token["id"] for content, token in added.items()}}
    if len(set(ids.values())) != len(ids):
        raise TokenizerError("The tokenizer's files give two tokens the same id; fetch them again.")
    return {**spec, "added_tokens": list(added.values()), "model": {**spec["model"], "vocab": ids}}


def named_token(config: Mapping[str, Any], name: str) -> str | None:
    """The text of the token that a config names as its `bos_token`, ..., plainly or as an object; None without one.

    >>> named_token({"bos_token": {"content": "<s>", "special": True}}, "bos_token")
    '<s>'
    """
    value = config.get(name)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that a config gives a role, by the name of the role ("bos_token", ...)."""
    named = {name: named_token(config, name) for name in _NAMED}
    return {name: content for name, content in named.items() if content is not None}


def _special_tokens(config: Mapping[str, Any]) -> Iterator[str]:
    yield from named_tokens(config).values()
    for name in _NAMED_LISTS:
        for value in config.get(name) or []:
            if (content := named_token({"token": value}, "token")) is not None:
                yield content


def around(vocab: Mapping[str, int], first: str | None, last: str | None) -> dict[str, Any] | None:
    """tokenizer.json's `post_processor` that puts tokens around a text; None if there are none to put.

    Args:
        vocab: The id of each token.
        first: The token before a text, or None.
        last: The token after a text, or None.

    Raises:
        TokenizerError: The vocabulary lacks one of the tokens.
    """
    names = [name for name in (first, last) if name is not None]
    if not names:
        return None
    for name in names:
        if name not in vocab:
            raise TokenizerError(f"The tokenizer is told to add {name!r} to a text, but its vocabulary lacks it.")

    def template(sequence: str, type_id: int) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": type_id}}]
        special = [{"SpecialToken": {"id": name, "type_id": type_id}} for name in names]
        return special[: first is not None] + steps + special[first is not None :]

    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": template("A", 0) + template("B", 1),
        "special_tokens": {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in names},
    }


def untrimmed(post_processor: Any) -> Any:
    """The post-processor with `trim_offsets` off, so that a token's span includes the token's spaces."""
    if isinstance(post_processor, list):
        return [untrimmed(step) for step in post_processor]
    if not isinstance(post_processor, dict):
        return post_processor
    result = dict(post_processor)
    if "trim_offsets" in result:
        result["trim_offsets"] = False
    if "processors" in result:
        result["processors"] = untrimmed(result["processors"])
    return result


def _spelling(spec: Mapping[str, Any]) -> Spelling:
    """The vocabulary's spelling, according to its decoder."""
    decoder = spec.get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    steps = _objects(steps, "decoder")
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(byte_level=True)
    known = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if not known.issuperset(kinds) or not any(_turns_space_mark(step) for step in steps):
        raise TokenizerError(
            f"The tokenizer turns tokens into text by {kinds or 'no rule'}; nextword knows byte-level and "
            "SentencePiece-like tokenizers only."
        )
    fallback = "ByteFallback" in kinds
    model = spec["model"]
    if not fallback and model.get("unk_token") is None:
        raise TokenizerError("The tokenizer would drop characters it lacks without a trace; nextword refuses it.")
    return Spelling(byte_level=False, byte_fallback=fallback, strips_space=any(map(_strips_space, steps)))


def _turns_space_mark(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "Metaspace":
        return step.get("replacement") == SPACE
    return step.get("type") == "Replace" and (step.get("pattern"), step.get("content")) == (
        {"String": SPACE},
        " ",
    )


def _strips_space(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "Metaspace":
        return step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True) is not False
    return step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1


def absent_bytes(spec: Mapping[str, Any]) -> bytes:
    """The bytes of UTF-8 text for which a byte-level vocabulary has no token."""
    vocab = spec["model"]["vocab"]
    return bytes(byte for byte in sorted(_UTF8_BYTES) if BYTE_TO_CHAR[byte] not in vocab)


def renamed(spec: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same tokenizer with other texts, and the same ids, for some of its added tokens."""
    model = dict(spec["model"])
    model["vocab"] = {names.get(token, token): id for token, id in model["vocab"].items()}
    unknown = model.get("unk_token")
    model["unk_token"] = names.get(unknown, unknown) if isinstance(unknown, str) else None
    added = [
        {**token, "content": names[token["content"]], "single_word": False} if token["content"] in names else token
        for token in spec["added_tokens"]
    ]
    return {**spec, "added_tokens": added, "model": model}


def fingerprint(spec: Mapping[str, Any], around: Sequence[int]) -> str:
    """SHA-256 (hex) of everything that decides which ids a text gets.

    `around` are the ids of the text "a" with the tokens around it, in place of the post-processor, which can be
    written in many equivalent ways.
    """
    parts = {key: spec.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer")}
    canonical = json.dumps(
        {**parts, "model": spec["model"], "around": list(around)}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
