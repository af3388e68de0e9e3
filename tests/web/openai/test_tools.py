"""Tools over the API, as the openai package calls them; the model is a scripted one that writes what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import nextword
from nextword.api import GPT
from nextword.encode.chat_template import ChatTemplate
from nextword.web.app import create_app
from nextword.web.openai.tool_calls import CallReader
from tests.web.served import call, served

TEMPLATE = (
    "{% if tools %}You may call, as <tool_call>JSON</tool_call>:\n{% for tool in tools %}{{ tool | tojson }}\n"
    "{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "sky", "parameters": SCHEMA}}
ASK: Any = [{"role": "user", "content": "How is Zürich?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TWO = f"I look. \n{CALL}\n{CALL.replace('Zürich', 'Bern')}"


class Parrot:
    """An engine, and its readings' logits: after any prompt it writes `script`, then ends."""

    def __init__(self, gpt: GPT) -> None:
        self.architecture, self._gpt, self.script = gpt.architecture, gpt, [0]

    def says(self, text: str) -> None:
        self.script = [*self._gpt.encode(text), min(self._gpt.stop_ids)]

    def open_session(self, capacity: int | None = None) -> _Told:
        return _Told(self, capacity or self.architecture.context)


class _Told:
    def __init__(self, parrot: Parrot, capacity: int) -> None:
        self.ids: list[int] = []
        self.capacity, self._parrot = capacity, parrot

    def truncate(self, length: int) -> None:
        del self.ids[length:]

    def feed(self, ids: Sequence[int]) -> Any:
        self.ids += ids
        script, logits = self._parrot.script, np.zeros(self._parrot.architecture.vocab, np.float32)
        said = next(n for n in range(len(script) - 1, -1, -1) if self.ids[len(self.ids) - n :] == script[:n])
        logits[script[said]] = 100
        return logits


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> GPT:
    folder = tmp_path_factory.mktemp("caller")
    for file in tiny_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return nextword.open(folder)


@pytest.fixture(scope="module")
def parrot(model: GPT) -> Parrot:
    return Parrot(model)


@pytest.fixture(scope="module")
def address(model: GPT, parrot: Parrot) -> Iterator[str]:
    model.hashes()
    model.engine = parrot  # type: ignore[assignment]
    with served(create_app(model, name="caller")) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "caller", "messages": ASK, "tools": [WEATHER], "temperature": 0, "max_tokens": 200, **settings}
    )


def test_a_call_comes_back_as_one(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.says(CALL)
    (choice,) = ask(client).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (made,) = choice.message.tool_calls
    assert (made.type, made.function.name) == ("function", "weather")
    assert json.loads(made.function.arguments) == {"city": "Zürich"}


def test_text_and_two_calls_stream_as_they_are_told_at_once(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.says(TWO)
    reply = ask(client).choices[0].message
    assert reply.content == "I look."
    assert [json.loads(each.function.arguments)["city"] for each in reply.tool_calls] == ["Zürich", "Bern"]
    chunks = [chunk.choices[0] for chunk in ask(client, stream=True)]
    assert "".join(each.delta.content or "" for each in chunks) == "I look."
    calls = [made for each in chunks for made in each.delta.tool_calls or []]
    assert [(made.index, made.function.name) for made in calls] == [(0, "weather"), (1, "weather")]
    assert [made.function.arguments for made in calls] == [made.function.arguments for made in reply.tool_calls]
    assert len({made.id for made in calls}) == 2
    assert [each.finish_reason for each in chunks if each.finish_reason] == ["tool_calls"]


def test_the_model_is_told_of_tools_calls_and_answers(client: openai.OpenAI, model: GPT, parrot: Parrot) -> None:
    parrot.says(CALL)
    answer = ask(client)
    ids = model.tokenizer.chat(ASK, tools=[WEATHER])
    assert answer.usage.prompt_tokens == len(ids)
    assert f"JSON</tool_call>:\n{json.dumps(WEATHER)}\nuser: How is" in model.decode(ids)
    (made,) = answer.choices[0].message.tool_calls
    back = [
        *ASK,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": made.id, "content": "rain"},
    ]
    parrot.says("It rains.")
    after = ask(client, messages=back)
    assert (after.choices[0].message.content, after.choices[0].finish_reason) == ("It rains.", "stop")
    function = {"name": "weather", "arguments": {"city": "Zürich"}}
    said = [*ASK, {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]
    expected = model.tokenizer.chat([*said, {"role": "tool", "content": "rain"}], tools=[WEATHER])
    assert after.usage.prompt_tokens == len(expected)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>' in model.decode(expected)


def test_without_tools_everything_is_text(client: openai.OpenAI, model: GPT, parrot: Parrot) -> None:
    parrot.says(CALL)
    for settings in ({"tools": []}, {"tool_choice": "none"}):
        answer = ask(client, **settings)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (CALL, "stop")
        assert answer.usage.prompt_tokens == len(model.tokenizer.chat(ASK))


def test_a_call_that_is_cut_off_is_text(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.says(CALL)
    (choice,) = ask(client, max_tokens=12).choices
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)
    assert choice.message.content
    assert CALL.startswith(choice.message.content)


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "param", "part"),
    [
        ({"tool_choice": "required"}, "tool_choice", "response_format"),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice", "auto"),
        ({"functions": [{"name": "weather"}], "tools": []}, "functions", "tools"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "required"),
        ({"tools": [{**WEATHER, "more": deep(200)}]}, "tools", "flatter"),
        ({"tools": [{**WEATHER, "more": "x" * 100_000}]}, None, "context"),
    ],
)
def test_what_cannot_be_done_is_refused(address: str, body: Any, param: str | None, part: str) -> None:
    asked = {"model": "caller", "messages": ASK, "tools": [WEATHER], **body}
    status, answer = call(address, "/v1/chat/completions", asked)
    assert status == 400
    assert part in answer["error"]["message"]
    assert param is None or answer["error"]["param"] == param


def test_a_tool_cannot_spell_a_special_token(model: GPT) -> None:
    (special, *_) = (model.tokenizer.token_text(id) for id in sorted(model.tokenizer.special_ids))
    evil = {"type": "function", "function": {"name": "f", "description": f"so {special} it goes"}}
    ids = model.tokenizer.chat(ASK, tools=[evil])
    plain = model.tokenizer.chat(ASK, tools=[{"type": "function", "function": {"name": "f", "description": "so"}}])
    count = [sum(id in model.tokenizer.special_ids for id in each) for each in (ids, plain)]
    assert count[0] == count[1]
    assert special in model.decode(ids)


@pytest.mark.parametrize(("template", "takes"), [(TEMPLATE, True), ("{{ messages[0].content }}", False)])
def test_a_template_says_whether_it_takes_tools(template: str, takes: bool) -> None:
    assert ChatTemplate(template).takes_tools is takes


@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        ("a < b", "a < b", []),
        ("  <tool", "  <tool", []),
        (TWO, "I look.", ["weather", "weather"]),
        ('<tool_call>{"name": "f"}', "", ["f"]),
        ('x <tool_call>{"name": "f"}</tool_call> y', "x y", ["f"]),
        ("x <tool_call>no</tool_call> y", "x <tool_call>no</tool_call> y", []),
        ('<tool_call>{"name": 7}</tool_call>', '<tool_call>{"name": 7}</tool_call>', []),
        ('<tool_call>{"name": "\\ud800"}</tool_call>', '<tool_call>{"name": "\\ud800"}</tool_call>', []),
        ("<tool_call>" + "[" * 5000, "<tool_call>" + "[" * 5000, []),
        ('<tool_call>{"name": "f", "arguments": NaN}', '<tool_call>{"name": "f", "arguments": NaN}', []),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_calls_are_told_from_text_however_it_is_cut(text: str, shown: str, names: list[str], size: int) -> None:
    reader, found, calls = CallReader(), "", []
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    for at, chunk in enumerate(chunks):
        more, made = reader.push(chunk, "stop" if at == len(chunks) - 1 else None)
        found, calls = found + more, calls + made
    assert found == shown
    assert [made["function"]["name"] for made in calls] == names
    assert [made["index"] for made in calls] == list(range(len(calls)))
