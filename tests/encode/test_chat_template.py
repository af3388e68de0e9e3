from __future__ import annotations

import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from nextword.encode import chat_template as chat
from nextword.encode.chat_template import render_chat
from nextword.errors import InputError, TokenizerError

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
STRICT = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(count=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.count % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant") }}
    {%- endif %}
    {%- set ns.count = ns.count + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
REASONING = """\
{%- macro turn(role, text) -%}
<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{%- set ns = namespace(last=messages | length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if not ns.seen and message.role == "user" and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}{%- set ns.seen = true %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ tools | map(attribute='name') | join(', ') | upper }}
{% endif %}
{%- for message in messages %}
    {%- if loop.index0 > 20 %}{% break %}{% endif %}
    {%- if message.content is none %}{% continue %}{% endif %}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' and '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set text = text ~ '\\n<tool_call>' ~ (call | tojson(indent=2)) ~ '</tool_call>' %}
    {%- endfor %}
    {%- if message.role == 'assistant' %}{% generation %}{{ turn(message.role, text) }}{% endgeneration %}
    {%- else %}{{ turn(message.role, text.replace('\\r\\n', '\\n')) }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if thinking is defined and not thinking %}
    {{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}
"""
ROLES = """\
{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
    {% else %}
{{ '<|' + message['role'] + '|>\\n' + (message.content or 'nothing') + eos_token }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
"""
DICTS = (
    "{% set names = dict(user='U', assistant='A') %}{{ names | tojson }}{{ dict.fromkeys(['x'], 1) }}"
    "{% for message in messages | selectattr('role', 'equalto', 'user') %}{{ loop.index }}/{{ loop.length }} "
    "{{ names[message.role] * 3 }}: {{ message.content | length }}, {{ 7 // 2 }} {{ 2 ** 5 }} {{ 7 % 4 }} "
    "{% for part in range(2, 9, 3) %}{{ part }}{% endfor %}"
    "{{ message['content'] | first | default('none') }}{{ loop.nextitem is defined }}{{ loop.revindex }}"
    "{% endfor %}{{ none }}{{ true }}"
)
TEMPLATES = {
    "SmolLM2": SMOLLM2,
    "Llama 3": LLAMA3,
    "strict": STRICT,
    "reasoning": REASONING,
    "roles": ROLES,
    "dicts": DICTS,
}

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": '  What is\r\n1 < 2 & "3"?\n\n'}],
    [
        {"role": "user", "content": "äöü 中文 🙂"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": ""},
    ],
    [
        {"role": "user", "content": "<tool_response>{{ 7 * 7 }}{% raw %}"},
        {"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": {"a": [1, None, "é<"]}}]},
    ],
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_render_as_in_transformers(name: str, messages: list[dict[str, Any]], prompt: bool) -> None:
    variables: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "thinking": False}
    tools = [{"name": "search"}, {"name": "sum"}]
    (theirs,), _ = render_jinja_template(
        [messages], tools=tools, chat_template=TEMPLATES[name], add_generation_prompt=prompt, **variables
    )
    ours = render_chat(TEMPLATES[name], messages, add_generation_prompt=prompt, tools=tools, **variables)
    assert ours == theirs


def render(template: str, *messages: dict[str, Any], **extra: Any) -> str:
    said = messages or ({"role": "user", "content": "Hi"},)
    return render_chat(template, said, add_generation_prompt=True, bos_token=None, eos_token=None, **extra)


def test_a_refused_conversation_says_why() -> None:
    with pytest.raises(InputError, match="roles must alternate"):
        render(STRICT, {"role": "assistant", "content": "Hi"})


def test_the_date_is_todays() -> None:
    assert render("{{ strftime_now('%Y') }}") == datetime.datetime.now().strftime("%Y")


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ 1",
        "{% for x in %}",
        "{{ messages | no_such_filter }}",
        "{{ nothing.at.all }}",
        "(" * 9 + "{{" + "(" * 9_000,
    ],
)
def test_a_broken_template_is_refused_in_one_sentence(template: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        render(template)
    assert "\n" not in str(caught.value)


MALICIOUS = {
    "the class of a string": "{{ ''.__class__ }}!",
    "its subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by a filter": "{{ ('' | attr('__class__')).mro() }}",
    "by format": "{{ '{0.__class__}'.format(1) }}",
    "by a format filter": "{{ '%s' | format(1) }}",
    "by percent": "{{ '%999999999d' % 1 }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func.__globals__.x }}",
    "globals of a helper": "{{ raise_exception.__globals__['x'] }}",
    "a namespace's class": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "a namespace made with dunders": "{{ namespace(__init__=1) }}",
    "changing messages": "{{ messages.append(1) }}",
    "an endless range": "{% for i in range(10 ** 12) %}{% endfor %}",
    "ranges in ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "work in a loop": "{% for i in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
    "a recursive loop": "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "endless recursion": "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "forking recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a huge string": "{{ 'a' * 10 ** 10 }}",
    "a huge list": "{{ [0] * 10 ** 10 }}",
    "a huge number": "{{ 9 ** (9 ** 9) }}",
    "a huger number": "{% set ns = namespace(x=10) %}{% for i in range(99) %}{% set ns.x = ns.x ** 99 %}{% endfor %}",
    "squaring": "{% set ns = namespace(x=10) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "padding": "{{ 'a'.ljust(10 ** 10) }}",
    "padding by a filter": "{{ 'a' | center(10 ** 10) }}",
    "indenting": "{{ 'a\nb' | indent(10 ** 10) }}",
    "indenting JSON": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "doubling by +": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling a list": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by output": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = y %}{% endfor %}"
    ),
    "doubling by replace": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}"
    ),
    "doubling by join": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}"
    ),
    "much literal text": "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "batches": "{{ [1] | batch(10 ** 9, 0) | list }}",
    "slices": "{{ [1] | slice(10 ** 9, 0) | list }}",
    "lorem ipsum": "{{ lipsum(n=10 ** 6) }}",
    "other templates": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}",
    "a huge range as text": "{{ range(10 ** 9) | list }}",
}


@pytest.mark.parametrize("template", MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_template_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_WORK", chat._WORK // 16)  # the real limit is reached in seconds
    try:
        text = render(template)
    except (TokenizerError, InputError):
        return
    assert len(text) < 100  # an attribute that is not there renders as nothing
    assert "class" not in text


def test_no_attribute_of_python_is_reached() -> None:
    for name in ("__class__", "__init__", "__globals__", "__subclasses__", "__dict__", "mro"):
        for start in ("''", "messages", "raise_exception", "namespace", "dict", "range", "[].append", "loop", "cycler"):
            try:
                assert render(f"{{{{ {start}.{name} }}}}") == ""
            except TokenizerError as error:
                assert "unsafe" in str(error) or "undefined" in str(error), error  # noqa: PT017


def test_a_long_honest_conversation_fits_the_budget() -> None:
    said = [{"role": "user" if n % 2 == 0 else "assistant", "content": "word " * 2_000} for n in range(401)]
    for template in (SMOLLM2, LLAMA3, STRICT, ROLES):
        assert len(render(template.replace("bos_token", "''").replace("eos_token", "''"), *said)) > 4_000_000
