"""The facade: predictions, scores and conversations, against transformers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import nextword
from nextword.errors import ContextOverflow, EmptyPrompt, InputError, SettingError
from nextword.sample.settings import Sampling
from tests import tiny

Folder = Callable[[str], Path]
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def gpt(tiny_folder: Folder) -> nextword.GPT:
    return nextword.open(tiny_folder("llama"))


@pytest.fixture(scope="module")
def reference(tiny_folder: Folder) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float32)


def test_a_prediction_is_transformers_softmax(gpt: nextword.GPT, reference: transformers.PreTrainedModel) -> None:
    prediction = gpt.predict("She ate an apple")
    with torch.no_grad():
        odds = reference(torch.tensor([list(prediction.ids)])).logits[0, -1].softmax(-1).numpy()
    np.testing.assert_allclose(prediction.distribution.probability, odds, atol=1e-6)
    top = prediction.top(5)
    assert [row.id for row in top] == np.argsort(-odds)[:5].tolist()
    assert top[0].token == gpt.tokenizer.token_text(top[0].id)
    assert prediction.removed_mass == 0


def test_filters_show_in_a_prediction(gpt: nextword.GPT) -> None:
    prediction = gpt.predict("She ate an apple", Sampling(top_k=2))
    first, second, third = prediction.top(3)
    assert (first.removed_by, second.removed_by, third.removed_by) == (None, None, "top_k")
    assert first.filtered_probability + second.filtered_probability == pytest.approx(1)
    assert prediction.removed_mass == pytest.approx(1 - first.probability - second.probability)


def test_bits_per_byte_and_perplexity(gpt: nextword.GPT, reference: transformers.PreTrainedModel) -> None:
    text = "The cat sat. Été 🙂"
    score = gpt.score(text)
    ids = torch.tensor([gpt.encode(text)])
    with torch.no_grad():
        loss = reference(ids, labels=ids).loss.item()
    assert score.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    first = len(gpt.tokenizer.token_bytes(score.pieces[0].id))
    total = loss * (ids.shape[1] - 1) / math.log(2)
    assert score.bits_per_byte == pytest.approx(total / (len(text.encode()) - first), rel=1e-4)
    assert len(score.log_probabilities) == len(score.pieces) - 1


def test_where_a_token_begins_texts_the_first_word_is_scored_too(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "bos"
    shutil.copytree(tiny_folder("llama"), folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    begin = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    gpt, plain = nextword.open(folder), nextword.open(tiny_folder("llama"))
    score = gpt.score("The cat")
    assert len(score.log_probabilities) == len(score.pieces)
    expected = math.log(plain.predict([0]).row(score.pieces[0].id).probability)
    assert score.log_probabilities[0] == pytest.approx(expected, rel=1e-4)
    assert list(gpt.predict("The cat").ids) == [0, *plain.encode("The cat")]


def test_a_text_of_one_token_cannot_be_scored_and_says_so_by_nan(gpt: nextword.GPT) -> None:
    score = gpt.score("!")
    assert len(score.pieces) == 1
    assert math.isnan(score.perplexity)
    assert math.isnan(score.bits_per_byte)
    with pytest.raises(EmptyPrompt):
        gpt.score("")


def test_a_conversation_reads_only_what_is_new(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder("llama"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    gpt = nextword.open(folder)
    conversation = gpt.chat()
    answers = [conversation.say(text, max_tokens=4, seed=2).finish() for text in ("Hi.", "A cat?")]
    fresh = gpt.chat(conversation.messages[:2]).say("A cat?", max_tokens=4, seed=2).finish()
    assert [choice.id for choice in fresh.tokens] == [choice.id for choice in answers[1].tokens]
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "user"]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs.apply_chat_template(
        conversation.messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(answers[1].prompt) == expected


def test_ids_that_stand_for_no_token_are_never_drawn(tmp_path: Path) -> None:
    """Models pad their embedding to round numbers; the padding's odds are real, its words are not."""
    gpt = nextword.open(tiny.save(tiny.make("llama", vocab_size=400), tmp_path))
    words = gpt.tokenizer.vocab_size
    assert words < 400
    prediction = gpt.predict("She", Sampling(top_p=0.99))
    assert len(prediction.top(1000)) == words
    assert prediction.distribution.remover(words) == "no_token"
    assert prediction.distribution.probability.sum() == pytest.approx(1)
    assert prediction.distribution.filtered[:words].sum() == pytest.approx(1)
    for sampling in (Sampling(temperature=0), Sampling(temperature=2)):
        written = gpt.generate("She", max_tokens=60, seed=1, sampling=sampling).finish()
        assert all(choice.id < words for choice in written.tokens)


def test_a_continuation_keeps_its_first_space(tiny_folder: Folder, tmp_path: Path) -> None:
    """Sentencepiece-style tokenizers put a space before a text and take it away again: not in the middle of one."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    marks = ["<unk>", *"▁abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.BPE(vocab={mark: i for i, mark in enumerate(marks)}, merges=[], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    shutil.copytree(tiny_folder("llama"), tmp_path / "pieces")
    (tmp_path / "pieces" / "tokenizer.json").write_text(made.to_str())
    (tmp_path / "pieces" / "tokenizer_config.json").write_text("{}")
    gpt = nextword.open(tmp_path / "pieces")
    score = gpt.score("hi cat")
    bits = -score.log_probabilities.sum() / math.log(2)
    assert score.bits_per_byte == pytest.approx(bits / len("hi cat")), "the space put before the text is not text"
    assert gpt.generate("a cat", max_tokens=2, sampling=Sampling(logit_bias={1: 1e6})).finish().text == "  "


def test_a_model_without_a_template_does_not_chat(gpt: nextword.GPT) -> None:
    with pytest.raises(InputError, match="no chat template"):
        gpt.chat()


def test_a_message_too_long_for_the_context_is_forgotten(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder("llama"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    conversation = nextword.open(folder).chat()
    with pytest.raises(ContextOverflow, match="start anew"):
        conversation.say("cat " * 100)
    assert conversation.messages == []
    conversation.say("Hi.", max_tokens=2).finish()
    assert [message["content"] for message in conversation.messages] == ["Hi."]


def test_an_unknown_device_is_refused(tiny_folder: Folder) -> None:
    with pytest.raises(SettingError, match="tpu"):
        nextword.open(tiny_folder("llama"), device="tpu").predict("The")


@pytest.mark.parametrize("how", [{"weights": "int8"}, {"kv_cache": "int8"}])
def test_only_a_cpu_rounds(how: dict[str, str], tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextword.predict.torch_engine.pick_device", lambda device: device)
    with pytest.raises(SettingError, match="int8"):
        _ = nextword.open(tiny_folder("llama"), device="cuda", **how).engine


@pytest.mark.parametrize("how", [{"weights": "int3"}, {"kv_cache": "int3"}])
def test_an_unknown_form_is_refused(how: dict[str, str], tiny_folder: Folder) -> None:
    with pytest.raises(SettingError, match="int3"):
        nextword.open(tiny_folder("llama"), device="cpu", **how).predict("The")


def test_the_package_offers_what_it_lists() -> None:
    assert all(getattr(nextword, name) is not None for name in nextword.__all__)
    with pytest.raises(AttributeError):
        _ = nextword.no_such_thing
