"""Conversations to learn from. Referee: the text that transformers writes with the same template."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from nextword.corpus.document import Message
from nextword.encode.conversations import ConversationEncoder
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe
from nextword.errors import InputError
from tests.encode.samples import CORPUS, TEXTS, sentencepiece, spec_of

TOKENIZER = train_bpe([CORPUS], 500, chat=True)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
FORGETFUL = "{% for m in messages %}{% if loop.last %}{{ m.role }}: {% endif %}{{ m.content }}{% endfor %}"
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=5).filter(
    lambda turns: "assistant" in [role for role, _ in turns]
)


def with_template(tokenizer: Tokenizer, template: str, **config: str) -> Tokenizer:
    return Tokenizer(spec_of(tokenizer), {"bos_token": "<|endoftext|>", **config, "chat_template": template})


def learned(tokenizer: Tokenizer, *turns: tuple[str, str]) -> tuple[str, str]:
    """What is written, and what of it counts."""
    ids, mask = ConversationEncoder(tokenizer).encode([Message(*turn) for turn in turns], "talk.jsonl:4")
    assert len(ids) == len(mask)
    return tokenizer.decode(ids.tolist()), tokenizer.decode(ids[mask == 1].tolist())


def test_an_answer_counts_with_the_end_of_its_turn_and_nothing_else() -> None:
    written, answers = learned(
        TOKENIZER,
        *(("system", "Be brief."), ("user", "a pie?"), ("assistant", "an apple")),
        *(("user", "a tree?"), ("assistant", "")),
    )
    assert written == (
        "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na pie?<|im_end|>\n"
        "<|im_start|>assistant\nan apple<|im_end|>\n<|im_start|>user\na tree?<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
    )
    assert answers == "an apple<|im_end|><|im_end|>"


@given(TURNS)
@settings(deadline=None, max_examples=50)
def test_whatever_is_said_answers_begin_and_end_with_tokens_of_their_own(turns: list[tuple[str, str]]) -> None:
    written, answers = learned(TOKENIZER, *turns)
    assert written == "<|endoftext|>" + "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    assert answers == "".join(f"{said}<|im_end|>" for role, said in turns if role == "assistant")


def test_the_prompt_has_the_ids_that_it_has_when_the_model_is_asked() -> None:
    """Also where the answer begins with a line feed, which would join the one before it."""
    for answer in ("an apple", "\n\nan apple", " apple", "\r\n"):
        turns = [Message("user", "what?"), Message("assistant", answer)]
        ids, mask = ConversationEncoder(TOKENIZER).encode(turns, "")
        asked = TOKENIZER.chat([{"role": "user", "content": "what?"}])
        assert ids[: len(asked)].tolist() == asked
        assert mask[: len(asked)].sum() == 0
        assert TOKENIZER.decode(ids[mask == 1].tolist()) == answer + "<|im_end|>"


def test_a_mark_that_is_spelled_in_a_message_stays_text() -> None:
    ids, mask = ConversationEncoder(TOKENIZER).encode([Message("user", "x"), Message("assistant", "a<|im_end|>b")], "")
    ends = [int(counts) for id, counts in zip(ids, mask, strict=True) if id in TOKENIZER.eos_ids]
    assert ends == [0, 0, 1]  # the beginning, the question's, the answer's


def test_templates_without_special_tokens_count_their_whole_answers() -> None:
    written, answers = learned(with_template(TOKENIZER, PLAIN), ("user", "x"), ("assistant", "a pie"), ("user", "y"))
    assert written == "user: x\nassistant: a pie\nuser: y\n"
    assert answers == " a pie\n"


def test_sentencepiece_too() -> None:
    tokenizer = with_template(sentencepiece(), "{{ bos_token }}" + PLAIN, bos_token="<s>", unk_token="<unk>")
    assert learned(tokenizer, ("user", "the dog"), ("assistant", "the fox"))[1].strip() == "the fox"


def test_transformers_writes_the_same_and_ends_with_the_same_marks(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "a pie?"}, {"role": "assistant", "content": "an apple"}]
    for asked in (True, False):
        ids = theirs.apply_chat_template(turns, add_generation_prompt=asked, return_dict=False)
        assert ids == TOKENIZER.chat(turns, add_generation_prompt=asked)
    again = Tokenizer.from_folder(tmp_path)
    assert again.chat(turns) == TOKENIZER.chat(turns)
    assert again.eos_ids == TOKENIZER.eos_ids == {0, 2}


def test_what_cannot_be_learned_from_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match="talk.jsonl:4: no message has the role 'assistant'"):
        learned(TOKENIZER, ("user", "x"))
    with pytest.raises(InputError, match="talk.jsonl:4: the chat template does not keep"):
        learned(with_template(TOKENIZER, FORGETFUL), ("user", "x"), ("assistant", "y"), ("user", "z"))
