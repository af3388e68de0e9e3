"""What can be asked, field by field, after OpenAI's API reference, with the fields that nextword adds.

Fields that are not known are ignored, a null is as good as a field left out, and numbers must be numbers.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nextword.base.settings import settings_of
from nextword.base.types import Json
from nextword.sample.settings import Sampling
from nextword.trace.settings import EXPLAIN, Ablation, ExplainSettings, Granularity
from nextword.web.problems import BadRequest
from nextword.web.settings import sampling_fields

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_NAME = 256  # characters
MOST_ALTERNATIVES = 20  # per token, in logprobs


def _described(words: str) -> WrapValidator:
    """For what may have several shapes: one sentence in place of a complaint about each."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError as error:
            raise PydanticCustomError("shape", "Input should be {words}", {"words": words}) from error

    return WrapValidator(check)


Ids = list[int]
Prompt = Annotated[
    str | Ids | list[str] | list[Ids],
    _described("a text, a list of texts, a list of token ids, or a list of such lists"),
]
OneToken = Annotated[str | int, _described("a text that is one token, or the id of one")]
Stop = Annotated[str, Field(max_length=1000)]
Stops = Annotated[
    Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)],
    _described(f"a text, or a list of at most {MOST_STOPS} texts, each of at most 1,000 characters"),
]


class ApiRequest(BaseModel):
    """The base of all requests."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class StreamOptions(ApiRequest):
    """include_usage: a last chunk with the usage of all choices."""

    include_usage: bool = False


class JsonSchema(ApiRequest):
    """A JSON schema by its name; without one, any object."""

    name: str = "schema"
    schema_: Json = Field(default={"type": "object"}, alias="schema")


class ResponseFormat(ApiRequest):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    def schema_to_follow(self) -> Json | None:
        """The JSON schema to follow, None for free text."""
        if self.type == "json_schema":
            if self.json_schema is None:
                raise BadRequest("response_format.json_schema is missing.", "response_format")
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


# By a number each; the logit bias is an object of OpenAI's own form.
_NUMBERS = tuple(name for name in settings_of(Sampling) if name != "logit_bias")
_SamplingFields = create_model("SamplingFields", __base__=ApiRequest, **sampling_fields(_NUMBERS))


class GenerationRequest(_SamplingFields):  # type: ignore[misc, valid-type]  # made from the list of settings
    """What completions and chat share. Settings left out are those of `nextword generate`."""

    model: str | None = None
    logit_bias: dict[str, float] = Field(
        default={}, max_length=10_000, description=settings_of(Sampling)["logit_bias"].doc
    )
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: Stops = Field(default=[])
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat()
    explain: bool = False

    def sampling(self) -> Sampling:
        """How to choose. Raises SettingError or BadRequest."""
        bias = {_token(id): bias for id, bias in self.logit_bias.items()}
        return Sampling(**{name: getattr(self, name) for name in _NUMBERS}, logit_bias=bias)

    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def seed_of(self, choice: int) -> int | None:
        """The seed of one of several choices: the first has the one that was asked for."""
        return None if self.seed is None else (self.seed + choice) % (1 << 64)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: int = Field(default=16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    suffix: str = ""
    best_of: int | None = None

    def prompts(self) -> list[str | Ids]:
        """Each prompt. Raises BadRequest if there is none."""
        if not self.prompt and isinstance(self.prompt, list):
            raise BadRequest("There is nothing to continue: give a prompt.", "prompt")
        is_one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return cast("list[str | Ids]", [self.prompt] if is_one else self.prompt)


class ContentPart(ApiRequest):
    """A part of a message; only text can be read."""

    type: str
    text: str = ""


class Function(ApiRequest):
    """A function that was called. arguments: JSON, as a text."""

    name: str = Field(max_length=MOST_NAME)
    arguments: str = "{}"


class Call(ApiRequest):
    """A call of a tool that the model made earlier in the conversation."""

    id: str = Field(default="", max_length=MOST_NAME)
    function: Function

    def plain(self) -> Json:
        """As chat templates take it: with the arguments themselves where they are JSON."""
        try:
            arguments = json.loads(self.function.arguments)
        except (ValueError, RecursionError):
            arguments = self.function.arguments
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


class OfferedFunction(ApiRequest):
    """What a tool does; `parameters` is the JSON schema of its arguments."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(max_length=MOST_NAME)


class Tool(ApiRequest):
    """A tool that the model may call: a function."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: OfferedFunction


class Message(ApiRequest):
    """One message of a conversation. tool_calls: of the assistant; tool_call_id: what a tool's answer is to."""

    role: str = Field(max_length=100)
    name: str | None = Field(default=None, max_length=MOST_NAME)
    tool_calls: list[Call] = Field(default=[], max_length=MOST_CHOICES)
    tool_call_id: str | None = Field(default=None, max_length=MOST_NAME)
    content: Annotated[str | list[ContentPart], _described("a text, or a list of parts with a type and a text")] = ""

    def plain(self) -> dict[str, Any]:
        """As chat templates take it. Raises BadRequest for what is not text."""
        content = self.content
        if not isinstance(content, str):
            if any(part.type not in ("text", "input_text", "refusal") for part in content):
                raise BadRequest("Only text can be read: a message has a part of another type.", "messages")
            content = "".join(part.text for part in content)
        payload: Json = {"role": "system" if self.role == "developer" else self.role, "content": content}
        if self.tool_calls:
            payload["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.role == "tool":
            payload |= {key: value for key in ("name", "tool_call_id") if (value := getattr(self, key)) is not None}
        return payload


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(default=None, ge=0)
    max_completion_tokens: int | None = Field(default=None, ge=0)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    tools: list[Tool] = Field(default=[], max_length=MOST_CHOICES)
    tool_choice: str | Json = "auto"
    functions: list[Any] = Field(default=[])  # what tools were once called
    function_call: str | Json = "auto"

    def offered(self) -> list[Json]:
        """The tools that the answer may call. Raises BadRequest where it would have to call one."""
        if self.functions and self.function_call != "none":
            raise BadRequest("functions are what tools were once called: offer tools.", "functions")
        if self.tool_choice == "none":
            return []
        if self.tools and self.tool_choice != "auto":
            raise BadRequest(
                'Whether a tool is called is for the model to say: tool_choice can be "auto" or "none" here; for JSON '
                "of a certain form set response_format.",
                "tool_choice",
            )
        return [tool.model_dump() for tool in self.tools]


class TokenizeRequest(ApiRequest):
    """POST /tokenize: `content` (llama.cpp) or `prompt` (vLLM). add_special: the token that begins a text too."""

    content: str = ""
    prompt: str = ""
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeRequest(ApiRequest):
    """POST /detokenize."""

    tokens: Ids = Field(max_length=1_000_000)


_EXPLAIN = settings_of(ExplainSettings)


class ExplainRequest(ApiRequest):
    """POST /v1/explain: why this token comes next. token, against: a text that is one token, or an id."""

    model_config = ConfigDict(extra="forbid", strict=True)  # nextword's own: what is not known is a mistake

    model: str | None = None
    prompt: Annotated[str | Ids, _described("a text or a list of token ids")]
    token: OneToken | None = None
    contrast: OneToken | None = None
    count: int = Field(default=EXPLAIN.count, ge=1, le=100, description=_EXPLAIN["count"].doc)
    granularity: Granularity = Field(default=EXPLAIN.granularity, description=_EXPLAIN["granularity"].doc)
    ablation: Ablation = Field(default=EXPLAIN.ablation, description=_EXPLAIN["ablation"].doc)


def _token(id: str) -> int:
    if not (id.isascii() and id.isdecimal()) or len(id) > 12:
        raise BadRequest(f"logit_bias: {id[:40]!r} is not a token id.", "logit_bias")
    return int(id)
