"""What holds for all verbs.

`--json` puts machine-readable output, and nothing else, on stdout; notes, progress and errors go to stderr.
The exit code is 0; 1 for an error that the user can mend, reported in one line; 2 for wrong usage; 130 after
Ctrl-C, 143 for training that SIGTERM ended, and 141 when nobody reads the output any more. What a verb needs is
imported by the verb.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nextword.base.version import __version__
from nextword.cli import terminal
from nextword.errors import NextwordError


class _Verbs(TyperGroup):
    """All verbs. An exception becomes an exit code, and one line on stderr if the user can mend it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _let_go_of_output()
            raise typer.Exit(141) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except NextwordError as error:
            terminal.complain(str(error))
            raise typer.Exit(1) from None
        except OSError as error:  # a file or folder that may not be read or written
            terminal.complain(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            raise typer.Exit(1) from None
        return result


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it fits narrow terminals and is there in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Notes(logging.Handler):
    """Log messages of the library, printed as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        terminal.note(record.getMessage())


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"nextword {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A complete GPT, kept open: text, tokens, probabilities, words."""
    terminal.settle_encoding()
    logger = logging.getLogger("nextword")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Notes()]
    # torch's threads wait for each other by spinning; where another program wants a core, that is 4 times slower
    # than to sleep soon. torch reads this when it is loaded, which is later.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _let_go_of_output() -> None:
    """Send the rest of the output nowhere, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _build_only(words: Sequence[str]) -> None:
    """Leave only the verb that was typed, if it is one: to build the options of all verbs takes 15 ms."""
    named = [each for each in app.registered_commands if each.callback and [_verb(each.name or each.callback)] == words]
    app.registered_commands = named or app.registered_commands


def _verb(name: str | Callable[..., object]) -> str:
    return name if isinstance(name, str) else name.__name__.replace("_", "-")


def main() -> None:
    """The console script."""
    try:
        try:
            _build_only(sys.argv[1:2])
            app(prog_name="nextword")
        finally:
            sys.stdout.flush()  # help and version are printed where no verb is invoked
    except OSError as error:
        _let_go_of_output()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        terminal.complain(f"standard output: {error.strerror}.")
        raise SystemExit(1) from None
