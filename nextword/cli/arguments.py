"""The options that verbs share, and texts from the command line, a pipe or a file.

A text is UTF-8 wherever it comes from; anything else is refused with one sentence.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nextword.base.settings import Setting, settings_of
from nextword.errors import InputError
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling

TextArgument = Annotated[str | None, typer.Argument(show_default=False, help="The text; - or nothing reads stdin.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A pulled name, a folder, RUN@STEP or a .gguf file.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A pulled name, a folder, RUN@STEP or a .gguf file; else a small model of nextword's own."
    ),
]
Encoding = Annotated[str | None, typer.Option(help="One of OpenAI's: r50k_base, p50k_base, cl100k_base or o200k_base.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")]
CpuWeights = Annotated[
    str, typer.Option(help="How a CPU holds the weights: auto (as they are stored), fp32, bf16, int8 or int4.")
]
KvCache = Annotated[
    str,
    typer.Option(
        help="How a CPU holds keys and values: auto (fp16 beside int8 and int4 weights, else fp32), fp32, fp16, or "
        "int8: half the memory of fp16, rounded a little."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int | None, typer.Option(show_default="a new one", help="Same seed, same text.")]
ServerUrl = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Ask a server of OpenAI's API, such as `nextword serve`, instead."),
]
Contrast = Annotated[str | None, typer.Option(help="A contrast token, with its space; else what the model expected.")]
MaxTokens = Annotated[int | None, typer.Option(help="The largest number of tokens to generate.")]


class WritingCommand(TyperCommand):
    """A verb that generates text; its help ends with its default sampling options."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The sampling options whose defaults differ from the model's own distribution."""
        changed = {
            name: value
            for name, each in settings_of(Sampling).items()
            if each.default is not None and (value := getattr(DEFAULT_SAMPLING, name)) != each.default
        }
        formatter.write_paragraph()
        formatter.write_text(f"Default sampling: {' '.join(f'{_flag(name)} {changed[name]}' for name in changed)}.")


def with_sampling(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb all sampling options in place of its parameter `given`, a dict of the options that were used."""

    def command(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in settings_of(Sampling)}
        given = {name: value for name, value in options.items() if value not in (None, [])}
        if "logit_bias" in given:
            given["logit_bias"] = dict(map(_bias, given["logit_bias"]))
        verb(**arguments, given=given)

    own = inspect.signature(verb, eval_str=True).parameters.values()
    parameters = [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.name != "given"]
    parameters += map(_sampling_option, settings_of(Sampling).values())
    command.__name__, command.__doc__ = verb.__name__, verb.__doc__
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


_KINDS = {"float": (float, ""), "int": (int, ""), "Mapping[int, float]": (list[str], "ID=BIAS, repeatable: ")}


def _sampling_option(setting: Setting) -> inspect.Parameter:
    kind, how = _KINDS[setting.kind]
    option = typer.Option(_flag(setting.name), help=how + setting.doc)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _bias(pair: str) -> tuple[int, float]:
    id, _, bias = pair.partition("=")
    try:
        return int(id), float(bias)
    except ValueError as error:
        raise typer.BadParameter(f"{pair!r:.40} is not ID=BIAS", param_hint="--logit-bias") from error


def text_of(argument: str | None) -> str:
    """The text of an argument; for - and for None the standard input, without the line end that `echo` adds."""
    if argument is not None and argument != "-":
        return utf8(argument)
    return standard_input("TEXT", typed=argument == "-").removesuffix("\n").removesuffix("\r")


def file_text(path: Path) -> str:
    """The text in a file. Raises InputError if it is not UTF-8, OSError if it cannot be read."""
    return _decode(path.read_bytes(), str(path))


def standard_input(name: str, typed: bool = False) -> str:
    """The whole standard input.

    Args:
        name: Name of the argument that it stands for, for the error.
        typed: Whether it may be typed at a terminal.

    Raises:
        typer.BadParameter: Nothing is piped in and it may not be typed.
        InputError: It is not UTF-8.
    """
    if sys.stdin.isatty() and not typed:
        raise typer.BadParameter("give it, or pipe it in", param_hint=name)
    return _decode(sys.stdin.buffer.read(), "standard input")


def token_ids(text: str) -> list[int]:
    """Token ids, written as whole numbers separated by white space. Raises InputError for anything else.

    >>> token_ids("15496 995\\n")
    [15496, 995]
    """
    words = text.split()
    wrong = [word for word in words if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise InputError(f"{wrong[0]!r:.40} is not a token id; give whole numbers separated by spaces.")
    return [int(word) for word in words]


def utf8(text: str) -> str:
    """The text itself. Raises InputError if its bytes were not UTF-8: Python passes those on as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("The text is not valid UTF-8; give it in UTF-8.") from error
    return text


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text (byte {error.start}); convert it first.") from error
