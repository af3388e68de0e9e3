"""The API, as its users' programs speak to it: the openai package, schemathesis, and bare bytes."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import openai
import pydantic
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

import nextword
from nextword.api import GPT
from nextword.trace.receipt.receipt import VERSION
from nextword.web.app import create_app
from nextword.web.guard import Rules, hosts_of
from tests.web.served import call, served

KING = "The king had three sons, and the youngest"
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
)


@pytest.fixture(scope="module")
def tales() -> Iterator[tuple[str, Any]]:
    app = create_app(nextword.open("tales"), name="tales", rules=Rules(hosts=hosts_of("127.0.0.1")), rows=8, queue=24)
    with served(app) as address:
        yield address, app.state.service
    assert app.state.service.scheduler.running == 0


@pytest.fixture(scope="module")
def address(tales: tuple[str, Any]) -> str:
    return tales[0]


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def talker(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> GPT:
    """A random model that was given a chat template: it talks in broken characters and all the scripts it knows."""
    folder = tmp_path_factory.mktemp("talker")
    for file in tiny_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return nextword.open(folder)


@pytest.fixture(scope="module")
def chat(talker: GPT) -> Iterator[openai.OpenAI]:
    with served(create_app(talker, name="talker")) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def complete(client: openai.OpenAI, **settings: Any) -> Any:
    return client.completions.create(**{"model": "tales", "prompt": KING, "max_tokens": 24, "seed": 7, **settings})


# Completions


def test_the_text_is_that_of_generate(client: openai.OpenAI) -> None:
    answer = complete(client)
    ours = nextword.open("tales").generate(KING, max_tokens=24, seed=7)
    text = "".join(step.text for step in ours)
    assert answer.choices[0].text == text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24


def test_a_stream_is_the_same_text_with_one_id_and_one_end(client: openai.OpenAI) -> None:
    whole = complete(client, n=3)
    chunks = list(complete(client, n=3, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    *rest, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage.model_copy(update={"prompt_tokens_details": last.usage.prompt_tokens_details})
    assert all(chunk.usage is None for chunk in rest)
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in rest if chunk.choices[0].index == choice.index]
        assert "".join(each.text for each in mine) == choice.text
        assert [each.finish_reason for each in mine if each.finish_reason] == [choice.finish_reason]
        assert mine[-1].finish_reason
    assert len({choice.text for choice in whole.choices}) == 3


def test_a_prompt_counts_once_whatever_follows_it(client: openai.OpenAI) -> None:
    alone = [complete(client, prompt=prompt, max_tokens=0).usage.prompt_tokens for prompt in (KING, "Once upon")]
    usage = complete(client, prompt=[KING, "Once upon"], n=3, max_tokens=4).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (sum(alone), 24)
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_prompts_may_be_texts_ids_and_lists_of_them(client: openai.OpenAI) -> None:
    ids = nextword.open("tales").tokenizer.encode_prompt(KING)
    one = complete(client, n=2).choices
    assert complete(client, prompt=ids, n=2).choices == one
    for prompts in ([KING, KING], [ids, ids]):
        choices = complete(client, prompt=prompts).choices
        assert [(c.index, c.text) for c in choices] == [(c.index, c.text) for c in one]


def test_the_same_request_gives_the_same_bytes_whatever_else_is_written(client: openai.OpenAI) -> None:
    alone = complete(client, max_tokens=60).choices[0].text
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        if number == 0:
            answers[0] = complete(client, max_tokens=60).choices[0].text
        else:
            answers[number] = complete(client, prompt=f"{number} " * number, max_tokens=60, seed=number).choices[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == alone


def test_logprobs_are_the_models_own_and_hold_the_drawn_token(client: openai.OpenAI) -> None:
    choice = complete(client, logprobs=3, temperature=1.5).choices[0]
    logprobs, gpt = choice.logprobs, nextword.open("tales")
    assert "".join(logprobs.tokens) == choice.text
    ids = gpt.tokenizer.encode_prompt(KING)
    for token, logprob, top, offset in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset, strict=True
    ):
        alternatives = {row.token: row for row in gpt.predict(ids).top(3)}
        assert top[token] == logprob
        assert set(alternatives) | {token} == set(top)
        assert choice.text[offset:].startswith(token)
        ids.append(gpt.tokenizer.encode_one(token))


def test_echo_with_no_tokens_scores_the_prompt(client: openai.OpenAI) -> None:
    choice = complete(client, echo=True, max_tokens=0, logprobs=1).choices[0]
    score = nextword.open("tales").score(KING)
    assert choice.text == KING
    assert choice.logprobs.token_logprobs[0] is None
    got = choice.logprobs.token_logprobs[-len(score.log_probabilities) :]
    pairs = [(a, b) for a, b in zip(got, score.log_probabilities, strict=True) if a is not None]
    assert all(a == pytest.approx(b, abs=1e-4) for a, b in pairs)
    longer = complete(client, echo=True, max_tokens=5, logprobs=1).choices[0]
    assert longer.text.startswith(KING)
    assert len(longer.logprobs.tokens) == len(choice.logprobs.tokens) + 5
    assert "".join(longer.logprobs.tokens).endswith(longer.text)


def test_a_stop_string_never_leaks_and_nor_do_its_logprobs(client: openai.OpenAI) -> None:
    full = complete(client, max_tokens=40).choices[0].text
    stop = full[20:26]
    want = full[: full.index(stop)]
    choice = complete(client, max_tokens=40, stop=stop, logprobs=0).choices[0]
    assert (choice.text, choice.finish_reason) == (want, "stop")
    assert all(offset < len(want) for offset in choice.logprobs.text_offset)
    chunks = list(complete(client, max_tokens=40, stop=["zzz", stop], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == want


def test_logit_bias_min_p_and_penalties_act(client: openai.OpenAI) -> None:
    gpt = nextword.open("tales")
    cat = gpt.tokenizer.encode_one(" cat")
    assert complete(client, logit_bias={str(cat): 100}, max_tokens=3).choices[0].text == " cat cat cat"
    greedy = complete(client, temperature=0, max_tokens=8).choices[0].text
    assert complete(client, temperature=1.0, max_tokens=8, extra_body={"min_p": 1.0}).choices[0].text == greedy


def test_explain_gives_a_receipt_for_each_token(client: openai.OpenAI) -> None:
    answer = complete(client, max_tokens=2, extra_body={"explain": True}).model_dump()
    receipts = answer["choices"][0]["receipts"]
    assert len(receipts) == 2
    assert "".join(receipt["draw"]["token"]["token"] for receipt in receipts) == answer["choices"][0]["text"]
    assert receipts[0]["draw"]["seed"] == 7
    chunks = [c.model_dump() for c in complete(client, max_tokens=2, stream=True, extra_body={"explain": True})]
    assert [receipt for chunk in chunks for receipt in chunk["choices"][0]["receipts"]] == receipts


def test_v1_explain_is_a_receipt(address: str) -> None:
    status, receipt = call(address, "/v1/explain", {"prompt": KING, "token": " of", "count": 3, "ablation": "none"})
    assert (status, receipt["receipt"]) == (200, VERSION)
    assert call(address, "/v1/explain", {"prompt": KING, "token": "xylophone quartet"})[0] == 400


# Chat


def test_a_conversation(chat: openai.OpenAI, talker: GPT) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "n"}]},
    ]
    answer = chat.chat.completions.create(model="talker", messages=messages, seed=3, max_tokens=12, temperature=1)
    ids = talker.tokenizer.chat([messages[0], {"role": "user", "content": "An"}], add_generation_prompt=True)
    from dataclasses import replace

    ours = talker.generate(ids, max_tokens=12, seed=3, sampling=replace(nextword.api.DEFAULT_SAMPLING, temperature=1))
    assert answer.choices[0].message.content == "".join(step.text for step in ours)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(ids)


def test_tools_are_refused_with_a_way_out(chat: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    messages: Any = [{"role": "user", "content": "Paris?"}]
    with pytest.raises(openai.BadRequestError, match="response_format") as refused:
        chat.chat.completions.create(model="talker", messages=messages, tools=[tool])
    assert refused.value.param == "tools"
    reply = chat.chat.completions.create(
        model="talker", messages=messages, tools=[tool], tool_choice="none", max_tokens=2, seed=1
    )
    plain = chat.chat.completions.create(model="talker", messages=messages, max_tokens=2, seed=1)
    assert reply.choices == plain.choices


@pytest.mark.parametrize("seed", range(6))
def test_broken_characters_stream_as_they_are_written_whole(chat: openai.OpenAI, seed: int) -> None:
    asked: Any = {
        "model": "talker",
        "messages": [{"role": "user", "content": "🙂 猫"}],
        "seed": seed,
        "max_tokens": 30,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = chat.chat.completions.create(**asked).choices[0]
    chunks = list(chat.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    streamed = [token for chunk in chunks for token in (chunk.choices[0].logprobs or whole.logprobs).content]
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert tokens == whole.logprobs.content
    assert streamed
    assert all(token.token in [top.token for top in token.top_logprobs] for token in tokens)
    data = bytes(byte for token in tokens for byte in token.bytes)
    if whole.finish_reason == "length":
        assert data.decode("utf-8", "replace") == whole.message.content


def test_json_after_a_schema(chat: openai.OpenAI) -> None:
    class Pie(pydantic.BaseModel):
        fruit: Literal["apple", "plum"]
        slices: Annotated[int, pydantic.Field(ge=0, le=9)]
        warm: bool

    for seed in range(4):
        choice = chat.chat.completions.parse(
            model="talker", messages=[{"role": "user", "content": "a"}], response_format=Pie, seed=seed
        ).choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Pie)


def test_json_that_ends_is_valid(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
        "required": ["colour", "age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for seed in range(5):
        choice = complete(client, seed=seed, max_tokens=60, extra_body={"response_format": wanted}).choices[0]
        assert choice.finish_reason == "stop"
        value = json.loads(choice.text)
        assert value["colour"] in ("red", "green")
        assert 0 <= value["age"] <= 99


# The rest


def test_small_endpoints(address: str, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tales"]
    assert client.models.retrieve("tales").object == "model"
    status, reply = call(address, "/tokenize", {"content": KING})
    assert (status, reply["tokens"]) == (200, nextword.open("tales").encode(KING))
    assert call(address, "/detokenize", {"tokens": reply["tokens"]})[1]["content"] == KING
    assert call(address, "/health")[1]["status"] == "ok"
    assert "nextword_written_tokens_total" in call(address, "/metrics")[1]
    assert call(address, "/")[1].startswith("<!doctype html>")


def test_nulls_and_unknown_fields_are_as_if_left_out(address: str) -> None:
    body = {"prompt": KING, "max_tokens": 3, "seed": 1}
    _, plain = call(address, "/v1/completions", body)
    nulls = {"stop": None, "n": None, "temperature": None, "logit_bias": None, "stream": None, "stream_options": None}
    status, other = call(address, "/v1/completions", {**body, **nulls, "suffix": None, "user": "me", "zzz": [1]})
    assert status == 200
    assert other["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("body", "part", "code"),
    [
        (b"{", "JSON", None),
        (b"[" * 200_000, "JSON", None),
        (b"\xff\xfe", "JSON", None),
        (b"[]", "", None),
        ({"prompt": ""}, "nothing to continue", None),
        ({"prompt": []}, "nothing to continue", None),
        ({"prompt": [[]]}, "nothing to continue", None),
        ({"prompt": {"a": 1}}, "prompt: Input should be a text, a list of texts", None),
        ({"prompt": ["x", 5]}, "prompt: Input should be a text, a list of texts", None),
        ({"prompt": "x", "stop": ["y"] * 17}, "at most 16 texts", None),
        (b'{"prompt": "x",}', "not JSON", None),
        ({"prompt": "x", "temperature": "hot"}, "temperature", None),
        ({"prompt": "x", "temperature": -1}, "temperature", None),
        (b'{"prompt": "x", "temperature": NaN}', "temperature", None),
        ({"prompt": "x", "n": 0}, "n", None),
        ({"prompt": "x", "stop": ""}, "stop", None),
        ({"prompt": "x", "logit_bias": {"cat": 1}}, "logit_bias", None),
        ({"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias", None),
        ({"prompt": "\ud800"}, "surrogate", None),
        ({"prompt": [5, 1 << 40]}, "token", None),
        ({"prompt": "x", "model": "gpt-5"}, "gpt-5", "model_not_found"),
        ({"prompt": "cat " * 2000}, "context", "context_length_exceeded"),
        ({"prompt": "z" * 1_000_000}, "context", "context_length_exceeded"),
        ({"prompt": "x", "suffix": "y"}, "suffix", None),
        ({"prompt": "x", "best_of": 3}, "best_of", None),
        ({"prompt": ["x"] * 200}, "At most", None),
        ({"prompt": "x", "response_format": {"type": "json_schema"}}, "json_schema", None),
        (
            {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "?"}}}},
            "schema",
            None,
        ),
        ({"prompt": "x", "explain": True, "max_tokens": 500}, "explain", None),
    ],
)
def test_what_cannot_be_used_is_told_in_one_sentence(address: str, body: Any, part: str, code: str | None) -> None:
    began = time.monotonic()
    status, answer = call(address, "/v1/completions", body)
    assert 400 <= status < 500, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert part in answer["error"]["message"]
    assert answer["error"]["code"] == code
    assert time.monotonic() - began < 2


def test_errors_arrive_as_the_clients_own_types(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, prompt="cat " * 2000)
    assert refused.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError):
        complete(client, model="other")
    with pytest.raises(openai.BadRequestError, match="chat template"):
        client.chat.completions.create(model="tales", messages=[{"role": "user", "content": "hi"}])
    assert call(address, "/v1/nothing")[0] == 404
    assert call(address, "/v1/completions")[0] == 405


def test_a_full_queue_is_429_with_a_time_to_try_again(client: openai.OpenAI, tales: tuple[str, Any]) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        complete(client, n=100, max_tokens=400)
    assert refused.value.response.headers["retry-after"] == "1"
    assert refused.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_row(tales: tuple[str, Any], stream: bool) -> None:
    address, service = tales
    before = service.scheduler.counts.cancelled
    body = json.dumps({"prompt": "Once", "max_tokens": 500, "stream": stream, "logit_bias": {"0": -100}}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        end = time.monotonic() + 10
        while not service.scheduler.running:
            assert time.monotonic() < end
            time.sleep(0.001)
    end = time.monotonic() + 10
    while service.scheduler.counts.cancelled == before:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert service.scheduler.running == 0


# Who may ask


def test_a_body_over_the_limit_is_refused(address: str) -> None:
    assert call(address, "/v1/completions", {"prompt": "x" * (1 << 20)})[0] == 413
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(20):
            raw.sendall(piece)
        raw.sendall(b"0\r\n\r\n")
        answer = raw.recv(1000)
    assert b" 413 " in answer


def test_only_this_machine_and_its_own_page_may_ask(address: str) -> None:
    assert call(address, "/health", headers={"Origin": address})[0] == 200
    assert call(address, "/health", headers={"Origin": "https://evil.example"})[0] == 403
    assert call(address, "/health", headers={"Origin": "null"})[0] == 403
    assert call(address, "/health", headers={"Host": "evil.example"})[0] == 403


def test_a_key_guards_every_path_but_health(talker: GPT) -> None:
    rules = Rules(api_key="s3cret", origins=("https://friend.example",))
    with served(create_app(talker, name="talker", rules=rules, rows=1)) as address:
        paths = ["/", "/v1/models", "/metrics", "/docs", "/openapi.json", "/studio/api/model", "/nothing"]
        for path in paths:
            assert call(address, path)[0] == 401
            assert call(address, path, headers={"Authorization": "Bearer wrong"})[0] == 401
        assert call(address, "/health")[0] == 200
        basic = base64.b64encode(b"me:s3cret").decode()
        for key in ("Bearer s3cret", f"Basic {basic}"):
            assert call(address, "/v1/models", headers={"Authorization": key})[0] == 200
        good = openai.OpenAI(base_url=f"{address}/v1", api_key="s3cret", max_retries=0)
        assert good.models.list().data[0].id == "talker"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0).models.list()
        friend = {"Authorization": "Bearer s3cret", "Origin": "https://friend.example"}
        assert call(address, "/v1/models", headers=friend)[0] == 200


def test_schemathesis_finds_no_mistake_of_the_server(talker: GPT) -> None:
    with served(create_app(talker, name="talker", queue=500)) as address:
        for found in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():
            _try_out(found.ok(), address)


def _try_out(operation: Any, address: str) -> None:
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call(base_url=address)
        assert response.status_code < 500, (case.as_curl_command(), response.text)

    ask()
