from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.encode.bytelevel import added_token
from nextword.encode.tokenizer import Tokenizer, _backend
from nextword.encode.tokenizer_json import around, validate
from nextword.errors import InputError, ModelNotFound, TokenizerError
from tests.encode.samples import CORPUS, SPECIAL, WORDS, byte_level, sentencepiece, spec_of

TEXTS = ["", " hello  world", CORPUS, *WORDS, "".join(random.Random(1).choices(WORDS, k=200))]
CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}"


def saved(tokenizer: Tokenizer, folder: Path) -> tuple[Tokenizer, Any]:
    """What we and what transformers open after saving."""
    tokenizer.save(folder)
    return Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)


def tokenizers_with_names() -> Iterator[Tokenizer]:
    names = {"bos_token": SPECIAL[1], "eos_token": {"content": SPECIAL[0]}, "eot_token": SPECIAL[2]}
    yield byte_level()
    around_it = {"post_processor": around(spec_of(byte_level())["model"]["vocab"], SPECIAL[1], SPECIAL[2])}
    yield Tokenizer(spec_of(byte_level()) | around_it, {**names, "chat_template": CHAT})
    yield sentencepiece()


@pytest.mark.parametrize("tokenizer", list(tokenizers_with_names()))
def test_saved_and_opened_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again, theirs = saved(tokenizer, tmp_path)
    assert again.hash == tokenizer.hash
    assert (again.bos_id, again.eos_ids, again.special_ids) == (
        tokenizer.bos_id,
        tokenizer.eos_ids,
        tokenizer.special_ids,
    )
    assert again.chat_template == tokenizer.chat_template == theirs.chat_template
    assert theirs.bos_token_id == tokenizer.bos_id
    assert theirs.eos_token_id in tokenizer.eos_ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for text in TEXTS:
        for begin in (False, True):
            ids = tokenizer.encode(text, special=True, begin=begin)
            assert again.encode(text, special=True, begin=begin) == ids
            assert theirs(text, add_special_tokens=begin)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == tokenizer.decode(ids)


def test_tokens_that_the_config_lists_are_added_as_transformers_adds_them(tmp_path: Path) -> None:
    more, plain = byte_level().vocab_size, byte_level().vocab_size + 1
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[0],
        "added_tokens_decoder": {more: {"content": "<more>", "special": True}, plain: {"content": "<plain>"}},
        "add_bos_token": True,  # not heard where there is a tokenizer.json
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec_of(byte_level())), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = Tokenizer.from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "a<more>b <plain> c"):
        assert ours.encode(text, special=True, begin=True) == theirs(text)["input_ids"]
    assert more not in ours.encode("a<more>b")
    assert plain in ours.encode("a<plain>b")


def test_tokens_that_the_config_names_are_special() -> None:
    """Also where tokenizer.json holds them as plain words, or adds them as plain tokens."""
    spec = spec_of(byte_level())
    spec["added_tokens"] = [added_token(SPECIAL[0], 0, special=False)]
    assert Tokenizer(spec).special_ids == frozenset()
    tokenizer = Tokenizer(spec, {"eos_token": SPECIAL[0], "additional_special_tokens": [{"content": SPECIAL[1]}]})
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer.encode(SPECIAL[1], special=True) == [1]


def test_a_folder_in_older_layouts(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec_of(byte_level())), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).eos_ids == frozenset()
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": SPECIAL[2], "bos_token": SPECIAL[1]}))
    assert Tokenizer.from_folder(tmp_path).eos_ids == {2}
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": CHAT}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": None, "chat_template": templates}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.chat_template) == (1, frozenset(), CHAT)
    (tmp_path / "chat_template.jinja").write_text("newer")
    assert Tokenizer.from_folder(tmp_path).chat_template == "newer"


def test_the_hash_is_of_what_decides_ids() -> None:
    spec, known = spec_of(byte_level()), byte_level().hash
    assert len(known) == 64
    assert Tokenizer.from_json(json.dumps(spec, indent=3)).hash == known
    joined = {**spec["model"], "merges": [" ".join(pair) for pair in spec["model"]["merges"]]}
    assert Tokenizer({**spec, "model": joined, "truncation": {"max_length": 3}}).hash == known
    merges = spec["model"]["merges"]
    changed = [
        {**spec, "model": {**spec["model"], "merges": [merges[1], merges[0], *merges[2:]]}},
        {**spec, "added_tokens": spec["added_tokens"][1:]},
        {**spec, "normalizer": {"type": "NFC"}},
        {**spec, "pre_tokenizer": spec["pre_tokenizer"]["pretokenizers"][1]},
    ]
    assert len({known, *(Tokenizer(other).hash for other in changed)}) == 5


def test_older_ways_to_write_the_same_are_read() -> None:
    model = spec_of(byte_level())["model"]
    older = {
        **model,
        "merges": ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])],
        **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), None),
    }
    assert Tokenizer({**spec_of(byte_level()), "model": older}).encode(CORPUS) == byte_level().encode(CORPUS)


def test_it_is_built_as_the_library_builds_it_from_json() -> None:
    """With as many added tokens as large models have, of all kinds; one is in the vocabulary already."""
    spec = spec_of(byte_level())
    size, draw = 1 + max(spec["model"]["vocab"].values()), random.Random(0)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    spec["added_tokens"] += [
        added_token(f"<{number}>", size + number, special=False) | {flag: draw.random() < 0.5 for flag in flags}
        for number in range(3000)
    ]
    spec["added_tokens"].append(added_token("ab", spec["model"]["vocab"].get("ab", size + 3000), special=False))
    began = time.perf_counter()
    whole, _ = validate(spec, {})
    built, theirs = _backend(whole), tokenizers.Tokenizer.from_str(json.dumps(whole))
    assert json.loads(built.to_str()) == json.loads(theirs.to_str())
    assert time.perf_counter() - began < 5, "each added token must not be looked at again for each other"


def test_truncation_and_padding_of_the_file_are_not_obeyed() -> None:
    spec = spec_of(byte_level())
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert Tokenizer(spec).encode(CORPUS) == byte_level().encode(CORPUS)


def changed(**changes: Any) -> str:
    """The text of a tokenizer.json with parts of it, named a__b, replaced."""
    spec = spec_of(byte_level())
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = spec
        for parent in parents:
            part = part[parent]
        part[last] = value
    return json.dumps(spec)


def vocab(**changes: Any) -> dict[str, Any]:
    return {**spec_of(byte_level())["model"]["vocab"], **changes}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}

BAD = {
    "no JSON": ("{", "not valid JSON"),
    "nothing but brackets": ("[" * 100_000, "not valid JSON"),
    "no object": ("[]", "object"),
    "no model": ("{}", "no model"),
    "WordPiece": (changed(model__type="WordPiece"), "WordPiece"),
    "Unigram": (changed(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}), "Unigram"),
    "a merge of unknown tokens": (changed(model__merges=[["a", "zzz"]]), "zzz"),
    "a merge into an unknown token": (changed(model__merges=[["z", "q"]]), "zq"),
    "a merge of one": (changed(model__merges=["a"]), "no pair"),
    "a merge of three": (changed(model__merges=["a b c"]), "no pair"),
    "a merge that is an object": (changed(model__merges=[{"a": 1, "b": 2}]), "no pair"),
    "a merge of numbers": (changed(model__merges=[[1, 2]]), "no pair"),
    "merges that are none": (changed(model__merges=7), "no list of merges"),
    "merges that are an object": (changed(model__merges={"a b": 1}), "no list of merges"),
    "no merges": (changed(model__merges=None), "no list of merges"),
    "no vocabulary": (changed(model__vocab={}), "no vocabulary"),
    "a vocabulary without a merge's part": (
        changed(model__vocab={t: i for t, i in vocab().items() if i != 300}),
        "out",
    ),
    "two tokens with one id": (changed(model__vocab=vocab(zz=5)), "same id"),
    "a negative id": (changed(model__vocab=vocab(zz=-1)), "zz"),
    "an id that is no number": (changed(model__vocab=vocab(zz="9")), "zz"),
    "an id too high": (changed(model__vocab=vocab(zz=2**40)), "zz"),
    "a special token with another's id": (changed(added_tokens=[added_token("<x>", 9, special=True)]), "same id"),
    "a special token with two ids": (changed(added_tokens=[added_token("a", 999, special=True)]), "two ids"),
    "a special token twice": (changed(added_tokens=[added_token("<x>", 999, special=True)] * 2), "adds a token twice"),
    "an added token without text": (changed(added_tokens=[{"id": 3}]), "without text"),
    "added tokens that are none": (changed(added_tokens=[3]), "list of objects"),
    "dropout": (changed(model__dropout=0.1), "dropout"),
    "ends of words": (changed(model__end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "no decoder": (changed(decoder=None), "by no rule"),
    "another decoder": (changed(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "WordPiece"),
    "characters that would vanish": (changed(decoder=METASPACE), "drop characters"),
    "a broken pattern": (changed(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}), "cannot be built"),
    "a part of the wrong form": (changed(decoder={"type": "Sequence", "decoders": 3}), "list of objects"),
    "a key that is no text": (changed(decoder={"type": {}}), "form"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason) as caught:
        Tokenizer.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"eos_token": "<nowhere>"}, "eos_token"),
        ({"bos_token": "<nowhere>"}, "bos_token"),
        ({"added_tokens_decoder": {"x": {"content": "<y>"}}}, "form"),
        ({"added_tokens_decoder": {"7": {"content": "<y>"}}}, "same id"),
        ({"added_tokens_decoder": [1]}, "form"),
    ],
)
def test_a_config_that_contradicts_the_file_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        Tokenizer(spec_of(byte_level()), config)


def test_a_pattern_without_end_is_stopped() -> None:
    text = changed(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    )
    tokenizer = Tokenizer.from_json(text)
    with pytest.raises(TokenizerError, match="cannot encode"):
        tokenizer.encode("a" * 50 + "!")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        Tokenizer.from_folder(tmp_path / "none")
    with pytest.raises(TokenizerError, match="no tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec_of(byte_level())))
    for bad in ("{", "[]"):
        (tmp_path / "tokenizer_config.json").write_text(bad)
        with pytest.raises(TokenizerError, match="tokenizer_config.json"):
            Tokenizer.from_folder(tmp_path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**33) | st.floats() | st.sampled_from(["", "a", "Ġ", "ByteLevel"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "id"]), inner),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could be replaced: every part of the file, and a few of each long list or table."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, part in items[:12]:
        yield (*path, key)
        yield from places(part, (*path, key))


PLACES = list(places(spec_of(byte_level())))


@given(place=st.sampled_from(PLACES), value=ANYTHING)
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_works_or_is_refused(place: tuple[Any, ...], value: Any) -> None:
    spec = spec_of(byte_level())
    part: Any = spec
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with contextlib.suppress(TokenizerError, InputError):
        tokenizer = Tokenizer.from_json(json.dumps(spec))
        assert isinstance(tokenizer.decode(tokenizer.encode("the apple 中", begin=True)), str)
        assert isinstance(tokenizer.decode(tokenizer.encode("the<|im_end|>", special=True)), str)
