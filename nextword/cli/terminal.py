"""Output in a terminal: streamed text, tokens as chips, bars, progress, notes and errors.

Results go to stdout, everything about the work (notes, progress, errors) to stderr. Colour is never the only
carrier of a meaning, NO_COLOR and the terminal's width are honoured, and piped output is plain. Control characters
in a text, which could steer a terminal, are shown there as symbols and left alone in a pipe.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from nextword.base.text import printable, size

if TYPE_CHECKING:
    from nextword.cli.doctor import Diagnosis
    from nextword.sample.results import NextToken
    from nextword.trace.logit.explanation import Explanation

# Bits of surprisal below which a token has this style: pale to dark, which colour-blind eyes see too (YlOrRd).
_SURPRISAL = (
    (1, "black on #ffffb2"),
    (3, "black on #fecc5c"),
    (6, "black on #fd8d3c"),
    (10, "bright_white on #e31a1c"),
    (math.inf, "bright_white on #800026"),
)
_NEIGHBOURS = ("black on #cbd5e8", "black on #fdcdac")  # ColorBrewer Pastel2
_STATUS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_SILENCE = 10.0  # seconds: of work until a pipe gets a line about it
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


# The console with a bar or a spinner on it; another console would write into that.
_moving: ContextVar[Console | None] = ContextVar("moving", default=None)


def output() -> Console:
    """A console on stdout, for results."""
    return Console(highlight=False, markup=False, emoji=False)


def notes() -> Console:
    """A console on stderr, for everything about the work."""
    return _moving.get() or Console(stderr=True, highlight=False, markup=False, emoji=False)


def settle_encoding() -> None:
    """Make stdout show "?" for a character that its encoding lacks, instead of ending the program."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a replacement of stdout may lack it
    if reconfigure is not None:
        reconfigure(errors="replace")


def note(text: str) -> None:
    """Print a note on stderr."""
    _say(notes(), Text(printable(text), "dim"))


def sample(step: int, text: str) -> None:
    """Print a text that a model in training generated, on stderr, in one paragraph."""
    _say(notes(), Text(printable(" ".join(text.split())), "italic"), f"step {step:,}  ", "dim")


def complain(message: str) -> None:
    """Print an error on stderr, in one line of any length."""
    console = notes()
    console.out("error:", style="bold red", end=" ")
    console.out(printable(" ".join(message.split())))


def spinner(message: str) -> AbstractContextManager[object]:
    """A spinner on stderr as long as the context is open; nothing where stderr is no terminal."""
    console = notes()
    return console.status(message, spinner_style="dim") if console.is_terminal else nullcontext()


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """The current stage of long work, on stderr: yields `on_progress`, to be called with each new stage.

    In a terminal the stage stands beside a spinner; elsewhere every `_SILENCE` seconds a new stage is a line.
    """
    console = notes()
    if console.is_terminal:
        with console.status("", spinner_style="dim") as status, _drawn_on(console):
            yield lambda stage: status.update(Text(printable(stage), "dim"))
        return
    now, over = "", threading.Event()

    def report() -> None:
        reported = ""
        while not over.wait(_SILENCE):
            if (stage := now) != reported:
                note(stage)
                reported = stage

    def on_progress(stage: str) -> None:
        nonlocal now
        now = stage

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield on_progress
    finally:
        over.set()
        reporter.join()


@contextmanager
def _drawn_on(console: Console) -> Iterator[None]:
    """Inside, notes go through this console, which keeps its bar or spinner below them."""
    before = _moving.set(console)
    try:
        yield
    finally:
        _moving.reset(before)


@contextmanager
def download_bar(size: int) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr for `size` bytes: yields a function of the bytes done and of their total (None if unknown)."""
    console = notes()
    if not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(None), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=size)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, str], None]]:
    """The progress of training, on stderr: yields a function of the steps taken, their total and some facts.

    A bar in a terminal; elsewhere a line after every twentieth of the steps.
    """
    console = notes()
    if not console.is_terminal:

        def line(step: int, steps: int, facts: str) -> None:
            if step % max(steps // 20, 1) == 0 or step == steps:
                note(f"step {step:,} of {steps:,}: {facts}")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # The other columns are always whole; bar and facts share the rest of the width.
    bar = BarColumn(None, table_column=Column(ratio=1))
    facts_column = TextColumn("{task.description}", markup=False, table_column=Column(ratio=6, no_wrap=True))
    columns = (bar, MofNCompleteColumn(), facts_column, TimeRemainingColumn())
    with Progress(*columns, console=console, expand=True) as bars, _drawn_on(console):
        task = bars.add_task("", total=None)
        yield lambda step, steps, facts: bars.update(task, completed=step, total=steps, description=facts)


def talking() -> bool:
    """Whether stdin and stdout are a terminal, not a file or a pipe."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask() -> Iterator[str]:
    """Lines typed at a prompt, until Ctrl-D; Ctrl-C drops the line that is being typed."""
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() its editing and history)
    while True:
        try:
            yield input("\n> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


class TextStream:
    """Streamed text, printed at once; in a terminal wrapped at words, in a pipe exactly the text."""

    def __init__(self) -> None:
        self._console = output()
        self.is_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._column = 0
        self._word: list[tuple[str, str | None]] = []  # the chunks of the last word printed so far

    def write(self, text: str, style: str | None = None) -> None:
        """Print a chunk of the text."""
        if not self.is_terminal:
            self._console.file.write(text)
            self._console.file.flush()
            return
        for part in re.findall(r"\n|[^\S\n]+|\S+", printable(text).replace("\t", "    ")):
            if part == "\n" or (part.isspace() and self._column + len(part) >= self._console.width):
                self._break()
            elif part.isspace():
                self._put(part, style)
                self._word = []
            else:
                self._extend(part, style)

    def _extend(self, part: str, style: str | None) -> None:
        shown = sum(cell_len(chunk) for chunk, _ in self._word)
        self._word.append((part, style))
        if self._column + cell_len(part) < self._console.width or shown + cell_len(part) >= self._console.width:
            self._put(part, style)
            return
        if shown:  # the word's beginning moves to the next line, too
            self._console.control(Control.move(-shown, 0), Control((ControlType.ERASE_IN_LINE, 0)))
        word = self._word
        self._break()
        for chunk, its_style in word:
            self._put(chunk, its_style)
        self._word = word

    def _put(self, part: str, style: str | None) -> None:
        self._console.out(part, style=style, end="")
        self._column = (self._column + cell_len(part)) % self._console.width

    def _break(self) -> None:
        self._console.out()
        self._column, self._word = 0, []


def surprisal(probability: float) -> str:
    """The style of a token of this probability, by its surprisal."""
    return next((style for bits, style in _SURPRISAL if probability > 2.0**-bits), _SURPRISAL[-1][1])


def legend() -> None:
    """Print the meaning of the colours of `surprisal`, on stderr."""
    limits = [bits for bits, _ in _SURPRISAL]
    words = [f" <{bits} " if bits < math.inf else f" {limits[-2]}+ " for bits in limits]
    chips = (Text(word, style) for word, (_, style) in zip(words, _SURPRISAL, strict=True))
    notes().print(Text("bits of surprisal ", "dim"), *chips, sep="")


def chips(console: Console, tokens: Sequence[str], figures: Sequence[str], styles: Sequence[str]) -> None:
    """Print tokens side by side, each over its figure, wrapped at the width.

    Args:
        console: Where to print.
        tokens: Texts of the tokens.
        figures: A short string under each token.
        styles: A rich style of each token.
    """
    over, under = Text(), Text()
    for token, figure, style in zip(tokens, figures, styles, strict=True):
        chip = _cut(visible(token), console.width)
        width = max(cell_len(chip), len(figure))
        if over.cell_len + width > console.width:
            _print(console, over, under, Text())
            over, under = Text(), Text()
        over.append(chip, style).append(" " * (width - cell_len(chip) + 1))
        under.append(figure.ljust(width + 1), "dim")
    if over:
        _print(console, over, under)


def alternating(count: int) -> list[str]:
    """`count` styles that tell neighbours apart."""
    return [_NEIGHBOURS[number % 2] for number in range(count)]


def surprisals(console: Console, tokens: Sequence[str], logprobs: Sequence[float | None]) -> None:
    """Print tokens over their surprisal, which also colours them.

    Args:
        console: Where to print.
        tokens: Texts of the tokens.
        logprobs: Natural logarithms of their probabilities; None, shown as "-", for a token that nothing predicted.
    """
    figures = ["-" if each is None else f"{abs(each) / math.log(2):.1f}" for each in logprobs]
    styles = ["" if each is None else surprisal(math.exp(each)) for each in logprobs]
    chips(console, tokens, figures, styles)


def probabilities(console: Console, rows: Sequence[NextToken], filtered: bool) -> None:
    """Print tokens with a bar for the probability of each.

    Args:
        console: Where to print.
        rows: The tokens, at least one.
        filtered: Whether to print the probability after sampling's filters, too.
    """
    names = [_cut(visible(row.token), max(console.width // 3, 8)) for row in rows]
    width = max(cell_len(name) for name in names)
    highest = max(row.probability for row in rows)
    for row, name in zip(rows, names, strict=True):
        removed = row.removed_by is not None
        line = Text(no_wrap=True, overflow="ellipsis", end="")
        line.append(name, "strike dim" if removed else "bold").append(" " * (width - cell_len(name)))
        line.append(f"{row.probability:8.2%}", "dim" if removed else "")
        if removed:
            line.append(f"  removed by {row.removed_by}", "dim")
        else:
            line.append(f" → {row.filtered_probability:7.2%}  " if filtered else "  ")
            length = row.probability / highest * (console.width - line.cell_len - 1)
            line.append(_bar(length, console.encoding), "cyan")
        console.print(line)


def explanation(console: Console, found: Explanation) -> None:
    """Print why a token: its logit as a sum, then the largest components with the test of each claim."""
    attribution, tested = found.claims, found.audit
    _say(console, Text(f"{printable(repr(found.decode_token(found.token)))}  {found.probability:.2%}", "bold"))
    parts = (f"{name} {contribution:+.2f}" for name, contribution in attribution.parts().items())
    _say(console, Text(f"{printable(found.about())}: {attribution.total:+.2f} = {', '.join(parts)}"))
    _say(console, Text(f"remainder {attribution.remainder:+.0e}", "dim"))
    for number, component in enumerate(found.components):
        words, style = printable(found.words(component)), ""
        if tested is not None:
            finding = tested.findings[number]
            style = "" if finding.holds else "dim"
            # With a contrast token the claim is about the lead over that token, which is what was measured.
            lead = "" if found.contrast is None else f"the lead {-finding.measured:+.2f}, "
            words += f": without it {lead}log p {-finding.log_probability:+.2f}"
            words += "" if finding.holds else ", claim failed"
        _say(console, Text(words, style), f"{attribution.contribution(component):+8.2f}  ", style or "bold")
    _say(console, Text("all other components together", "dim"), f"{found.rest:+8.2f}  ", "dim")
    if tested is not None:
        held = sum(finding.holds for finding in tested.findings)
        sentence = f"{held} of {len(tested.findings)} claims hold"
        if not math.isnan(tested.rank_correlation + tested.control):
            figures = f"{tested.rank_correlation:.2f}, of random directions {tested.control:.2f}"
            sentence += f"; rank correlation with the measured change of log p {figures}"
        if not math.isnan(tested.estimate_correlation):
            sentence += f", of changes estimated from gradients {tested.estimate_correlation:.2f}"
        _say(console, Text(sentence, "dim"))


def models(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the models of `nextword models`."""
    for row in rows:
        facts = f"  {size(row['size'])}  {row['licence'] or 'licence: see the Hub'}"
        _say(console, Text.assemble((row["name"], "bold"), facts))
        where = printable(row["path"]) if row["path"] else f"not here yet: nextword pull {row['name']}"
        _say(console, Text(where, "dim"), "  ")


def check(console: Console, found: Diagnosis) -> None:
    """Print one check of `nextword doctor`, and on the next line what to do."""
    status = f"{found.status:<8}"
    _say(console, Text(f"{found.name}: {printable(found.found)}"), status, _STATUS[found.status])
    if found.todo:
        _say(console, Text(printable(found.todo), "bold"), " " * len(status))


def visible(token: str) -> str:
    """A token's text with symbols for spaces, tabs and line ends.

    >>> visible(" pie\\n")
    '·pie↵'
    """
    return printable(token).replace("\n", "↵").replace("\t", "⇥").replace(" ", "·")


def _say(console: Console, text: Text, mark: str = "", style: str = "") -> None:
    """Print prose after a mark: in a terminal wrapped at words and indented by the mark, in a pipe one line."""
    room = console.width - len(mark) if console.is_terminal else max(text.cell_len, 1)
    for number, line in enumerate(text.wrap(console, room)):
        line.rstrip()
        before = " " * len(mark) if number else mark
        console.print(Text.assemble((before, style), line), soft_wrap=True)


def _print(console: Console, *lines: Text) -> None:
    for line in lines:
        line.rstrip()
        console.print(line, soft_wrap=True)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _bar(length: float, encoding: str) -> str:
    if not encoding.startswith("utf"):
        return "#" * round(length)
    whole, eighth = divmod(max(round(length * 8), 0), 8)
    return "█" * whole + _EIGHTHS[eighth]
