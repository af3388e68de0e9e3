"""Chat templates: a conversation written as one text, in the way that its model learned.

A template is a program that comes with a model's files. It runs in jinja2's sandbox, which keeps it from
Python's internals, and under a budget of work, which keeps it from eating the machine. Settings and helpers
are those of transformers, so that a template renders the same here and there.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import jinja2
import jinja2.meta
from jinja2 import ext, nodes, runtime, sandbox
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from nextword.errors import InputError, TokenizerError

_WORK = 2**27  # characters: that a rendering may handle in all
_STEP = 128  # characters: the cost of a step
_ITEM = 8  # characters: the cost of an item of a list
_SIZE = 2**24  # characters or items: of the largest value that one step may make
_BITS = 4096  # bits: of the largest number
_EACH, _ALL = "each counted", "all counted"  # names of filters: with a space, so that no template can name them


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    bos_token: str | None,
    eos_token: str | None,
    **extra: Any,
) -> str:
    """The conversation as one text.

    Args:
        template: The source of the template (jinja2).
        messages: The turns, each with a `role` and a `content`.
        add_generation_prompt: Whether to end with the beginning of an answer.
        bos_token: The text of the token that begins a text.
        eos_token: The text of the token that ends a text.
        **extra: Further variables of the template.

    Raises:
        InputError: The template refuses the conversation.
        TokenizerError: The template is broken, uses something the sandbox forbids, or exceeds its budget of work.

    >>> template = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }} {% endfor %}"
    >>> messages = [{"role": "user", "content": "Hi!"}]
    >>> render_chat(template, messages, add_generation_prompt=False, bos_token="<s>", eos_token=None)
    '<s>user: Hi! '
    """
    return ChatTemplate(template).render(
        messages,
        add_generation_prompt=add_generation_prompt,
        bos_token=bos_token,
        eos_token=eos_token,
        **extra,
    )


class ChatTemplate:
    """A compiled chat template. Threads may share one."""

    def __init__(self, template: str) -> None:
        """Compile the template. Raises TokenizerError where the template is broken."""
        with _in_one_sentence():
            environment = _Sandbox()
            parsed = environment.parse(template)
            self.takes_tools = "tools" in jinja2.meta.find_undeclared_variables(parsed)
            self._program = environment.from_string(_Counted().visit(parsed))

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The conversation as one text, as `render_chat` gives it."""
        known = {"tools": None, "documents": None, **variables, _Budget.NAME: _Budget()}
        with _in_one_sentence():
            return self._program.render(known, messages=[dict(message) for message in messages])


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    try:
        yield
    except _Refusal as error:
        raise InputError(f"The model's chat template refuses this conversation: {error}") from error
    except Exception as error:  # whatever a foreign program does wrong
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise TokenizerError(f"The model's chat template cannot be used: {reason}.") from error


class _Refusal(Exception):
    """The template called raise_exception."""


class _Budget:
    """The work that a rendering may still do, in characters; one of the template's variables."""

    NAME = "work left"  # with a space, so that no template can name the variable

    def __init__(self) -> None:
        self.left = _WORK

    def spend(self, result: object) -> None:
        """Subtract the cost of a step and of its result."""
        self.left -= _STEP
        if isinstance(result, str):
            self.left -= len(result)
        elif isinstance(result, list | tuple | dict):
            self.left -= _ITEM * len(result)
        elif isinstance(result, int) and result.bit_length() > _BITS:
            raise jinja2.TemplateError("it makes a number of thousands of digits")
        if self.left < 0:
            raise jinja2.TemplateError("it does far more work than a conversation needs")


def _check_product(values: Iterable[object]) -> None:
    """Refuse to repeat, pad, join or replace values into a huge one, before the work is done."""
    sizes = [1, 1]
    for value in values:
        if isinstance(value, str | list | tuple):
            sizes.append(len(value))
        elif isinstance(value, int):
            sizes.append(abs(value))
    *_, second, first = sorted(sizes)
    if first * second > _SIZE:
        raise jinja2.TemplateError("it makes something far larger than a conversation")


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, ext.loopcontrols],
            finalize=_counted,
        )
        filters = {**self.filters, "tojson": _tojson}
        bounded = {name: _bounded(name, function) for name, function in filters.items()}
        self.filters = bounded | {_EACH: _each_counted, _ALL: _counted}
        self.globals = {
            "range": sandbox.safe_range,
            "dict": _Dict(),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        }

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("it formats text with %, which nextword does not allow")
        if operator == "**" and isinstance(left, int):
            _check_product((left.bit_length(), right))
        if operator == "*" and not (isinstance(left, int) and isinstance(right, int)):
            _check_product((left, right))
        return _counted(context, super().call_binop(context, operator, left, right))

    def call(__self, __context: runtime.Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if not isinstance(__obj, runtime.Macro):
            name, receiver = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
            _check_call(name, receiver, (*args, *kwargs.values()))
        return _counted(__context, super().call(__context, __obj, *args, **kwargs))


def _check_call(name: str, value: object, arguments: tuple[object, ...]) -> None:
    """Refuse calls of methods and filters of `value` that could make a huge value."""
    if name in ("format", "format_map"):
        raise jinja2.TemplateError(f"it calls {name}, which nextword does not allow")
    sizes = arguments if name in ("replace", "join") else [size for size in arguments if isinstance(size, int)]
    _check_product((1 if isinstance(value, int) else value, *sizes))


@jinja2.pass_context
def _counted(context: runtime.Context, value: Any) -> Any:
    context[_Budget.NAME].spend(value)
    return value


@jinja2.pass_context
def _each_counted(context: runtime.Context, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield _counted(context, value)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter under the budget. jinja's `jinja_pass_arg` names the argument that the filter takes before the value."""
    wanted = getattr(function, "jinja_pass_arg", None)
    first = {
        "context": lambda c: (c,),
        "eval_context": lambda c: (c.eval_ctx,),
        "environment": lambda c: (c.environment,),
    }
    before = first[wanted.name] if wanted is not None else lambda c: ()

    @jinja2.pass_context
    def bounded(context: runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_call(name, value, (*args, *kwargs.values()))
        return _counted(context, function(*before(context), value, *args, **kwargs))

    return bounded


class _Counted(NodeTransformer):
    """Rewrites a template so that its loops, its literal text and its joined strings cost work too."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        if node.recursive:
            raise jinja2.TemplateError("it uses a recursive loop, which nextword does not allow")
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _EACH)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _ALL)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)  # literal text, but handed to `finalize`


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class _Generation(ext.Extension):
    """{% generation %}, which marks the assistant's part for training; here the block renders its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """A namespace that keeps no underscored names, which would shadow Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a name may be `self`
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it sets {name!r} on a namespace")


class _Dict:
    """`dict` as a function only; the class would lead to Python's internals."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and indent > 16:
        raise jinja2.TemplateError(f"it indents JSON by {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _Refusal(message)
