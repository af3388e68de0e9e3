"""How things look in a terminal: text as it comes, chips, bars, progress, notes and errors.

Output goes to stdout, everything about the work (notes, progress, errors) to stderr. Colour is never the only
carrier of a meaning, NO_COLOR and the terminal's width are honoured, and what is piped is plain. Control
characters in a text, which could steer the terminal, are shown as symbols there and left alone in a pipe.
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
    from nextword.cli.doctor import Check
    from nextword.sample.results import NextToken
    from nextword.trace.logit.explanation import Explanation

# Bits of surprise below which a token has this style: pale to dark, which colour-blind eyes see too (YlOrRd).
_SURPRISAL = (
    (1, "black on #ffffb2"),
    (3, "black on #fecc5c"),
    (6, "black on #fd8d3c"),
    (10, "bright_white on #e31a1c"),
    (math.inf, "bright_white on #800026"),
)
_NEIGHBOURS = ("black on #cbd5e8", "black on #fdcdac")  # ColorBrewer Pastel2
_STATUS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_SILENCE = 10.0  # seconds, in a pipe
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


# The console with a bar or a spinner on it: another would write into that.
_moving: ContextVar[Console | None] = ContextVar("moving", default=None)


def output() -> Console:
    """What is asked for: stdout."""
    return Console(highlight=False, markup=False, emoji=False)


def notes() -> Console:
    """What is said about the work: stderr."""
    return _moving.get() or Console(stderr=True, highlight=False, markup=False, emoji=False)


def settle_encoding() -> None:
    """From now on a character that stdout's encoding lacks is shown as "?" instead of ending the program."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a stand-in for stdout may lack it
    if reconfigure is not None:
        reconfigure(errors="replace")


def note(text: str) -> None:
    """A remark on stderr."""
    _say(notes(), Text(printable(text), "dim"))


def sample(step: int, text: str) -> None:
    """What a model in training wrote, on stderr, in one paragraph."""
    _say(notes(), Text(printable(" ".join(text.split())), "italic"), f"step {step:,}  ", "dim")


def complain(message: str) -> None:
    """An error on stderr: one line, however long."""
    console = notes()
    console.out("error:", style="bold red", end=" ")
    console.out(printable(" ".join(message.split())))


def busy(message: str) -> AbstractContextManager[object]:
    """A spinner on stderr while something takes its time; nothing where stderr is no terminal."""
    console = notes()
    return console.status(message, spinner_style="dim") if console.is_terminal else nullcontext()


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: yields what is to be told it, as often as one likes.

    Beside a spinner in a terminal; elsewhere a line when it is still being done after a while, or something else is.
    """
    console = notes()
    if console.is_terminal:
        with console.status("", spinner_style="dim") as status, _drawn_on(console):
            yield lambda doing: status.update(Text(printable(doing), "dim"))
        return
    now, over = "", threading.Event()

    def tell() -> None:
        told = ""
        while not over.wait(_SILENCE):
            if (doing := now) != told:
                note(doing)
                told = doing

    def remember(doing: str) -> None:
        nonlocal now
        now = doing

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield remember
    finally:
        over.set()
        teller.join()


@contextmanager
def _drawn_on(console: Console) -> Iterator[None]:
    """Inside, notes go through this console, which moves what is drawn on it out of their way."""
    before = _moving.set(console)
    try:
        yield
    finally:
        _moving.reset(before)


@contextmanager
def download_bar(size: int) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr for `size` bytes: yields what is to be told the bytes there so far and their total."""
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
    """How far training is, on stderr: yields what is to be told the steps taken, their total and some facts.

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

    # Bar and facts share what the others, which are always whole, leave of the width.
    bar = BarColumn(None, table_column=Column(ratio=1))
    facts_column = TextColumn("{task.description}", markup=False, table_column=Column(ratio=6, no_wrap=True))
    columns = (bar, MofNCompleteColumn(), facts_column, TimeRemainingColumn())
    with Progress(*columns, console=console, expand=True) as bars, _drawn_on(console):
        task = bars.add_task("", total=None)
        yield lambda step, steps, facts: bars.update(task, completed=step, total=steps, description=facts)


def talking() -> bool:
    """Whether there is somebody at both ends, not a file or a pipe."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask() -> Iterator[str]:
    """Lines typed at a prompt, until Ctrl-D; Ctrl-C drops the line that was begun."""
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


class Page:
    """Text as it comes, shown at once; in a terminal wrapped at words, in a pipe exactly the text."""

    def __init__(self) -> None:
        self._console = output()
        self.is_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._column = 0
        self._word: list[tuple[str, str | None]] = []  # what stands of the last word, piece by piece

    def write(self, text: str, style: str | None = None) -> None:
        """Show a piece of the text."""
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
        shown = sum(cell_len(piece) for piece, _ in self._word)
        self._word.append((part, style))
        if self._column + cell_len(part) < self._console.width or shown + cell_len(part) >= self._console.width:
            self._put(part, style)
            return
        if shown:  # the word's beginning moves to the next line, too
            self._console.control(Control.move(-shown, 0), Control((ControlType.ERASE_IN_LINE, 0)))
        word = self._word
        self._break()
        for piece, its_style in word:
            self._put(piece, its_style)
        self._word = word

    def _put(self, part: str, style: str | None) -> None:
        self._console.out(part, style=style, end="")
        self._column = (self._column + cell_len(part)) % self._console.width

    def _break(self) -> None:
        self._console.out()
        self._column, self._word = 0, []


def surprisal(probability: float) -> str:
    """The style of a token that had this probability."""
    return next((style for bits, style in _SURPRISAL if probability > 2.0**-bits), _SURPRISAL[-1][1])


def legend() -> None:
    """What the colours of `surprisal` mean, on stderr."""
    limits = [bits for bits, _ in _SURPRISAL]
    words = [f" <{bits} " if bits < math.inf else f" {limits[-2]}+ " for bits in limits]
    chips = (Text(word, style) for word, (_, style) in zip(words, _SURPRISAL, strict=True))
    notes().print(Text("bits of surprise ", "dim"), *chips, sep="")


def chips(console: Console, tokens: Sequence[str], figures: Sequence[str], styles: Sequence[str]) -> None:
    """Tokens side by side, each over its figure, in as many lines as the width asks for."""
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
    """Styles that tell neighbours apart."""
    return [_NEIGHBOURS[number % 2] for number in range(count)]


def surprisals(console: Console, tokens: Sequence[str], logprobs: Sequence[float | None]) -> None:
    """Tokens over their surprise in bits, which also colours them; "-" under what nothing predicted."""
    figures = ["-" if each is None else f"{abs(each) / math.log(2):.1f}" for each in logprobs]
    styles = ["" if each is None else surprisal(math.exp(each)) for each in logprobs]
    chips(console, tokens, figures, styles)


def probabilities(console: Console, rows: Sequence[NextToken], filtered: bool) -> None:
    """Tokens with a bar for the probability of each; `filtered`: also what sampling makes of it."""
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
    """Why a token: the sum, then its largest causes with the test of each."""
    attribution, tested = found.claims, found.audit
    _say(console, Text(f"{printable(repr(found.decode_token(found.token)))}  {found.probability:.2%}", "bold"))
    parts = (f"{name} {share:+.2f}" for name, share in attribution.parts().items())
    _say(console, Text(f"{printable(found.about())}: {attribution.total:+.2f} = {', '.join(parts)}"))
    _say(console, Text(f"remainder {attribution.remainder:+.0e}", "dim"))
    for number, component in enumerate(found.components):
        words, style = printable(found.words(component)), ""
        if tested is not None:
            finding = tested.findings[number]
            style = "" if finding.holds else "dim"
            # Against a named rival the claim is about the lead over it, which is what was measured.
            lead = "" if found.contrast is None else f"the lead {-finding.measured:+.2f}, "
            words += f": without it {lead}log p {-finding.log_probability:+.2f}"
            words += "" if finding.holds else ", claim failed"
        _say(console, Text(words, style), f"{attribution.contribution(component):+8.2f}  ", style or "bold")
    _say(console, Text("all other causes together", "dim"), f"{found.rest:+8.2f}  ", "dim")
    if tested is not None:
        held = sum(finding.holds for finding in tested.findings)
        sentence = f"{held} of {len(tested.findings)} claims hold"
        if not math.isnan(tested.rank_correlation + tested.control):
            figures = f"{tested.rank_correlation:.2f}, of random directions {tested.control:.2f}"
            sentence += f"; rank correlation with the measured change of log p {figures}"
        if not math.isnan(tested.estimate_correlation):
            sentence += f", of changes foreseen from gradients {tested.estimate_correlation:.2f}"
        _say(console, Text(sentence, "dim"))


def models(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """The models of `nextword models`."""
    for row in rows:
        facts = f"  {size(row['size'])}  {row['licence'] or 'licence: see the Hub'}"
        _say(console, Text.assemble((row["name"], "bold"), facts))
        where = printable(row["path"]) if row["path"] else f"not here yet: nextword pull {row['name']}"
        _say(console, Text(where, "dim"), "  ")


def check(console: Console, found: Check) -> None:
    """One line of `nextword doctor`, and what to do on the next."""
    status = f"{found.status:<8}"
    _say(console, Text(f"{found.name}: {printable(found.found)}"), status, _STATUS[found.status])
    if found.todo:
        _say(console, Text(printable(found.todo), "bold"), " " * len(status))


def visible(token: str) -> str:
    """A token's text with its spaces and line ends shown."""
    return printable(token).replace("\n", "↵").replace("\t", "⇥").replace(" ", "·")


def _say(console: Console, text: Text, mark: str = "", style: str = "") -> None:
    """Prose after a mark: wrapped at words and set in from the mark in a terminal, one line in a pipe."""
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
