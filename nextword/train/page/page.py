"""A training run as one page for a reader who has never seen a loss curve: `page.html` in the run's folder.

Promises: one file that asks for nothing from elsewhere, is complete without its script and stays below a megabyte
however long the run; what stands in the run's files appears as text and never as markup; a run that is under way, was
interrupted or has hardly begun gets the parts for which there are numbers, and a number that is not finite is left out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Template
from markupsafe import Markup

from nextword.base import html, text
from nextword.base.atomic import atomic_write
from nextword.parameters.run_folder import RunFolder
from nextword.train.page.charts import Axis, Point, around, dots, line, smoothed, spread, steps

T = TypeVar("T")


def _if_known(words: Callable[[float], str]) -> Callable[[float | None], str | None]:
    """The same function, for numbers that a run may lack: None stays None."""
    return lambda value: None if value is None else words(value)


count, figure, duration, size = map(_if_known, (text.count, text.figure, text.duration, text.size))

GUESSING = 8.0  # bits per byte when all 256 bytes are equally probable

_SAMPLES, _SAMPLE_LENGTH = 12, 800  # samples: shown at most; characters: shown of each
_LAYERS, _KINDS = 24, 24  # lines: in a chart of norms; charts of norms
_ROWS = 150  # steps: that the cross-hair knows, spread evenly, and again by factors
_MOST = 1e18  # a number from which on a chart would fail
_LISTED = 20  # entries: shown of a long list
_SERIES = ("bits_per_byte", "heldout_bits_per_byte", "tokens", "lr_scale", "tokens_per_second", "ends_after", "resumed")
_GLOSSES = {
    "embed": "one vector for each token",
    "position": "one vector for each place in the text",
    "attention.query": "what a word looks for",
    "attention.key": "what finds a word",
    "attention.value": "what a word passes on",
    "attention.output": "how that is taken in",
    "mlp.gate": "when a feature may speak",
    "mlp.up": "which features a word has",
    "mlp.down": "what the features add",
    "unembed": "from a vector to the next token",
}


def write_page(folder: Path) -> Path:
    """Write `page.html` into a run's folder, from its card.json and log.jsonl, and return its path.

    Raises CorruptFile if there is no readable card, NoDiskRoom.
    """
    run = RunFolder(folder)
    atomic_write(run.page_path, render(run.card().values, run.records()).encode())
    return run.page_path


def render(card: Mapping[str, Any], log: Iterable[Mapping[str, Any]]) -> str:
    """The page as HTML, from the content of card.json and the records of log.jsonl."""
    run = _Run(card, _read(log))
    return _template().render(
        run=run,
        css=Markup(_resource("css")),
        script=Markup(_resource("js")),
        script_hash=html.script_hash(_resource("js")),
    )


@cache
def _resource(kind: str) -> str:
    return files("nextword.train.page").joinpath(f"page.{kind}").read_text("utf-8")


@cache
def _template() -> Template:
    environment = html.environment(finalize=_shown)
    environment.filters |= {"count": count, "figure": figure, "duration": duration, "size": size}
    return environment.from_string(_resource("html.jinja"))


def _shown(value: Any) -> Any:
    """Text with symbols for the characters that a page cannot hold."""
    return text.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass
class _Log:
    """What a log tells: series by the step, samples (step, prompt, text), and norms by the matrix."""

    series: dict[str, list[Point]]
    samples: list[tuple[float, str, str]] = field(default_factory=list)
    norms: dict[str, list[Point]] = field(default_factory=dict)


def _read(log: Iterable[Mapping[str, Any]]) -> _Log:
    series: dict[str, dict[float, float]] = {name: {} for name in _SERIES}
    samples: dict[float, tuple[str, str]] = {}
    norms: dict[str, dict[float, float]] = defaultdict(dict)
    for record in log:
        step = _number(record.get("step"))
        if step is None or step < 0:
            continue
        for name in _SERIES:
            if name in record and (value := _number(record[name])) is not None:
                series[name][step] = value  # of a step that was taken again, the last time counts
        match record.get("sample"):
            case {"text": str(text), **others}:
                samples[step] = (str(others.get("prompt") or ""), text)
        match record.get("norms"):
            case {**by_name}:
                for matrix, size_then in by_name.items():
                    if (norm := _number(size_then)) is not None:
                        norms[str(matrix)][step] = norm
    return _Log(
        {name: sorted(points.items()) for name, points in series.items()},
        [(step, *texts) for step, texts in sorted(samples.items())],
        {name: sorted(points.items()) for name, points in norms.items()},
    )


def _number(value: Any) -> float | None:
    """The value if it is a number that a chart can hold: NaN and the infinite are none."""
    with suppress(OverflowError):
        if isinstance(value, int | float) and abs(value) < _MOST:
            return float(value)
    return None


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it.

    Args:
        title: Above it.
        description: For screen readers.
        lines: (class, path in SVG's words).
        x_ticks: (per cent of the width, text).
        y_ticks: (per cent of the height, text).
    """

    title: str
    description: str
    lines: Sequence[tuple[str, str]]
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()


class _Run:
    """A run in words, numbers and charts, as the template asks for them."""

    def __init__(self, card: Mapping[str, Any], log: _Log) -> None:
        self._card, self._log = card, log
        self.training, self.heldout = log.series["bits_per_byte"], log.series["heldout_bits_per_byte"]
        self.corrections, self.resumed = log.series["ends_after"], log.series["resumed"]
        self.smooth = smoothed(self.training)
        self.finished = isinstance(card.get("results"), Mapping)
        self.step = self.number("results", "steps") or max(
            (each[-1][0] for each in log.series.values() if each), default=0
        )
        ends = self.number("results", "steps") or (self.corrections[-1][1] if self.corrections else None)
        self.planned = ends or self.number("recipe", "steps") or self.step
        self.floor = self.number("floor_bits_per_byte") or self.number("corpus", "floor_bits_per_byte")
        self.seconds = self.number("results", "seconds")
        self.weights = self.number("parameters")
        self.tokens = self.number("results", "tokens") or (
            log.series["tokens"][-1][1] if log.series["tokens"] else None
        )

    def find(self, *keys: str) -> Any:
        """What the card says under these keys, one below the other, or None."""
        value: Any = self._card
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *keys: str) -> float | None:
        """The same, if it is a finite number."""
        return _number(self.find(*keys))

    @property
    def paths(self) -> list[str]:
        """Where the text came from."""
        found = self.find("corpus", "paths")
        return [str(path) for path in found] if isinstance(found, list) else []

    @property
    def text_name(self) -> str:
        """The text in a word or two, for the headline."""
        names = [re.split(r"[/\\]", path.rstrip("/\\"))[-1].removeprefix("world:") or path for path in self.paths]
        more = [f"{len(names) - 2:,} more"] if len(names) > 2 else []
        return " and ".join([*names[:2], *more]) or "text"

    @property
    def quality(self) -> float | None:
        """Bits per byte, of text that was not trained on if any was held out."""
        latest = self.heldout or self.smooth
        return self.number("results", "bits_per_byte") or (latest[-1][1] if latest else None)

    @property
    def is_measured(self) -> bool:
        """Whether `quality` is that of held-out text."""
        return bool(self.heldout) or self.number("results", "bits_per_byte") is not None

    @property
    def shrunk(self) -> str | None:
        """The part of its size that text compressed with the model would have: 1/27."""
        if self.quality is None or not 0 < self.quality < GUESSING:
            return None
        factor = GUESSING / self.quality
        return f"1/{factor:.1f}" if factor < 9.95 else f"1/{factor:,.0f}"

    @property
    def beginning(self) -> str:
        """What the weights were before the first step."""
        if model := self.find("from", "model"):
            return f"the weights of {model}"
        if self.find("recipe", "init") == "bigrams":
            return "the bigrams of its text, counted"
        return "random numbers"

    @property
    def repeats(self) -> float | None:
        """The number of epochs over the text."""
        length = self.number("corpus", "train", "tokens")
        return self.tokens / length if self.tokens and length else None

    @property
    def bars(self) -> list[tuple[str, str, float]]:
        """Label, kind and bits per byte of what the quality is compared with."""
        first = ("At the first step", "first", self.training[0][1] if self.training else None)
        if before := self.number("from", "bits_per_byte"):
            first = ("As it was before", "first", before)
        known = [
            ("Pure guessing", "guess", GUESSING),
            first,
            ("This model now", "now", self.quality),
            ("Best possible", "floor", self.floor),
        ]
        return [(label, kind, bits) for label, kind, bits in known if bits is not None]

    @cached_property
    def boards(self) -> list[tuple[str, Axis, list[Chart]]]:
        """The charts over the steps, on each kind of axis: the learning curve first. One point makes no line."""
        if len(self.training) < 2:
            return []
        end = max(self.step, self.planned, 2)
        last = max(self.training[-1][0], 2)
        axes = {"magnified": Axis(1, end, log=True), "even": Axis(0, end), "close": Axis(last // 3, last)}
        return [(name, x, [self._curve(x), *self._side_charts(x)]) for name, x in axes.items()]

    def _curve(self, x: Axis) -> Chart:
        training, smooth, heldout = (_from(x.low, each) for each in (self.training, self.smooth, self.heldout))
        most = max(self.training[0][1], GUESSING)  # a spike may leave the chart
        usual = sorted(value for _, value in training)[len(training) // 100 : -(len(training) // 100) or None]
        values = [*usual, *(value for _, value in [*smooth, *heldout]), *([self.floor] if self.floor else [])]
        y = around([min(value, most) for value in values])
        marks = "".join(
            f"M{round(1000 * x.at(step))} 1000v-30" for step, _ in spread(_from(x.low, self.corrections), 60)
        )
        lines = [
            ("raw", steps(training, x, y)),
            ("corrected", marks),
            (
                "resumed",
                "".join(f"M{round(1000 * x.at(step))} 0v1000" for step, _ in spread(_from(x.low, self.resumed), 60)),
            ),
            ("floor", f"M0 {round(1000 * (1 - y.at(self.floor)))}h1000" if self.floor else ""),
            ("smooth", line(smooth, x, y)),
            ("heldout", line(heldout, x, y)),
            ("heldout-dots", dots(heldout, x, y)),
        ]
        start, now = figure(self.training[0][1]), figure(self.quality or self.smooth[-1][1])
        description = (
            f"Bits per byte by the step: from {start} at the first step to {now} after {count(self.step)} steps."
        )
        return _chart("Learning curve", description, lines, x, y)

    def _side_charts(self, x: Axis) -> Iterator[Chart]:
        scale, speed = (_from(x.low, self._log.series[name]) for name in ("lr_scale", "tokens_per_second"))
        if scale:
            description = "Learning rate by the step, as a share of its maximum."
            y = Axis(0, 1)
            yield _chart("Size of the moves", description, [("smooth", line(scale, x, y))], x, y, percent=True)
        if speed:
            description = f"Tokens per second by the step; {count(speed[-1][1])} at the last one."
            y = around([0, *(value for _, value in speed)], 2)
            yield _chart("Tokens per second", description, [("smooth", line(speed, x, y))], x, y)

    @cached_property
    def rows(self) -> list[list[str | float | None]]:
        """For the cross-hair and the table: the step, then as text step, training, held out, rate and speed."""
        steps_known = [step for step, _ in self.training]
        chosen = sorted({*spread(steps_known, _ROWS), *_growing(steps_known, _ROWS)})
        smooth, scale = dict(self.smooth), dict(self._log.series["lr_scale"])
        speed = dict(self._log.series["tokens_per_second"])
        return [
            [
                step,
                count(step),
                figure(smooth[step]),
                figure(_latest(self.heldout, step)),
                f"{100 * scale[step]:.0f} %" if step in scale else None,
                count(speed[step]) if step in speed else None,
            ]
            for step in chosen
        ]

    @property
    def table(self) -> list[list[str | float | None]]:
        """A few of the rows, closer together at the beginning."""
        return _growing(self.rows, 14)

    @cached_property
    def samples(self) -> list[tuple[float, str, str, float | None]]:
        """Step, prompt, text and bits per byte then, closer together at the beginning."""
        curve = self.heldout or self.smooth
        return [
            (
                step,
                prompt[:_SAMPLE_LENGTH],
                text if len(text) <= _SAMPLE_LENGTH else text[:_SAMPLE_LENGTH] + "…",
                _latest(curve, step),
            )
            for step, prompt, text in _growing(self._log.samples, _SAMPLES)
        ]

    @property
    def n_samples(self) -> int:
        """The number of samples in the log."""
        return len(self._log.samples)

    @cached_property
    def forecasts(self) -> list[tuple[str, str | None, str | None, str | None]]:
        """What was forecast: its name, forecast, result, and how far off."""
        kinds = (
            ("Bits per byte", "bits_per_byte", figure),
            ("Time", "seconds", duration),
            ("Memory", "memory_bytes", size),
            ("Steps", "steps", count),
        )
        until = self.number("budget", "until")
        rows = []
        for name, key, words in kinds:
            forecast, result = self.number("forecast", key), self.number("results", key)
            if forecast is None:
                continue
            expected, off = words(forecast), _off(forecast, result)
            if until is not None and key in ("seconds", "steps"):
                expected = f"at most {expected}"
                off = "ended at its target" if result is not None and result < forecast and self._on_target else off
            rows.append((name, expected, words(result), off))
        return rows

    @property
    def _on_target(self) -> bool:
        """Whether the run had a target in bits per byte and reached it."""
        until, found = self.number("budget", "until"), self.number("results", "bits_per_byte")
        return until is not None and found is not None and found <= until

    @cached_property
    def norms(self) -> list[tuple[str, str, Chart, list[float], str, str]]:
        """For each kind of matrix: name, what it is for, chart, opacity of its lines, value at the start and end."""
        kinds: dict[str, list[tuple[int, list[Point]]]] = defaultdict(list)
        for name, points in self._log.norms.items():
            if len(points) < 2:
                continue
            block = re.fullmatch(r"blocks\.(\d{1,9})\.(.+)", name)
            layer, kind = (int(block[1]), block[2]) if block else (0, name)
            kinds[kind.removesuffix(".weight")].append((layer, points))
        result = []
        for kind, layers in list(kinds.items())[:_KINDS]:
            lines = [points for _, points in spread(sorted(layers), _LAYERS)]
            x = Axis(0, max(points[-1][0] for points in lines) or 1)
            y = around([0, *(value for points in lines for _, value in points)])
            opacity = [round(0.3 + 0.7 * (index + 1) / len(lines), 2) for index in range(len(lines))]
            first, last = (figure(sum(points[place][1] for points in lines) / len(lines)) or "" for place in (0, -1))
            description = f"Root-mean-square by the step, a line for each layer: {first} to {last} on average."
            chart = Chart(kind, description, [("norm", line(spread(points, 60), x, y)) for points in lines])
            result.append((kind, _GLOSSES.get(kind, ""), chart, opacity, first, last))
        return result

    @property
    def text_table(self) -> list[tuple[str, list[str | None]]]:
        """What became of the text: documents, size and tokens."""
        corpus = self.find("corpus")
        corpus = corpus if isinstance(corpus, Mapping) else {}
        rows = [
            ("Read", [corpus.get("documents"), corpus.get("bytes"), None]),
            ("Removed: exact duplicates", [corpus.get("duplicates"), corpus.get("duplicate_bytes"), None]),
            ("Removed: also held out", [corpus.get("overlap") or None, None, None]),
            ("Skipped: not text", [corpus.get("skipped") or None, None, None]),
            *(
                (label, [self.number("corpus", part, key) for key in ("documents", "bytes", "tokens")])
                for label, part in (("Trained on", "train"), ("Held out, only to measure with", "heldout"))
            ),
        ]
        words = (count, size, count)
        shown = [
            (label, [word(_number(value)) for word, value in zip(words, values, strict=True)]) for label, values in rows
        ]
        return [(label, values) for label, values in shown if any(values)]

    @property
    def settings(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Everything that the card says, by topic."""
        topics = {
            "Recipe": ("recipe", "budget", "seed"),
            "Text": ("corpus",),
            "Machine": ("machine", "nextword"),
            "Forecast and results": ("forecast", "results"),
        }
        tables = {
            title: [row for key in keys for row in _settings(self._card.get(key), key)]
            for title, keys in topics.items()
        }
        return [(title, rows) for title, rows in tables.items() if rows]


def _chart(
    title: str, description: str, lines: Sequence[tuple[str, str]], x: Axis, y: Axis, percent: bool = False
) -> Chart:
    """A chart with its ticks and a grid."""
    ys = y.ticks(2 if percent else 4)
    grid = "".join(f"M0 {round(1000 * (1 - y.at(value)))}h1000" for value in ys)
    return Chart(
        title,
        description,
        [("grid", grid), *((kind, path) for kind, path in lines if path)],
        [(round(100 * x.at(value), 2), _short(value)) for value in x.ticks(4)],
        [(round(100 * y.at(value), 2), f"{100 * value:.0f} %" if percent else _short(value)) for value in ys],
    )


def _from(low: float, points: Sequence[Point]) -> list[Point]:
    """The points that are not before `low`."""
    return [point for point in points if point[0] >= low]


def _growing(items: Sequence[T], wanted: int) -> list[T]:
    """At most `wanted` of the items, at distances that grow by a factor, the first and the last among them."""
    if len(items) <= wanted:
        return list(items)
    return [items[index] for index in sorted({round(len(items) ** (i / (wanted - 1))) - 1 for i in range(wanted)})]


def _latest(points: Sequence[Point], step: float) -> float | None:
    """The last value at or before the step."""
    index = bisect_right(points, step, key=lambda point: point[0])
    return points[index - 1][1] if index else None


def _off(forecast: float, result: float | None) -> str | None:
    """How far the result is from the forecast, in words."""
    if result is None or not forecast:
        return None
    off = 100 * (result / forecast - 1)
    return "as forecast" if abs(off) < 0.05 else f"{abs(off):,.1f} % {'more' if off > 0 else 'less'}"


def _settings(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """A value of the card as rows of a table, one for each setting in it."""
    words = name.replace("_", " ")
    match value:
        case None:
            yield words, "none"
        case {**parts}:
            for key, part in parts.items():
                if key != "type":
                    yield from _settings(
                        part, str(key) if name in ("recipe", "architecture", "corpus", "results") else f"{name} {key}"
                    )
                elif name not in ("recipe", "architecture"):
                    yield words, str(part)
        case [*items]:
            shown = ["none" if item is None else str(item) for item in items[:_LISTED]]
            more = f" and {len(items) - _LISTED:,} more" if len(items) > _LISTED else ""
            yield words, f"{', '.join(dict.fromkeys(shown))}{more}" or "none"
        case _:
            yield words, str(value)


def _short(value: float) -> str:
    """A tick: 0.25, 10, 2k, 1M."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= unit), (1.0, ""))
    return f"{value / unit:.6g}{name}"
