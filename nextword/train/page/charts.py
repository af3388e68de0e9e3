"""The geometry of a chart: where values lie, round numbers beside it, and lines as SVG paths of bounded length.

Promises: a path has at most a few numbers for each of its columns, however many points it is drawn from; points
outside the axes are drawn at their edge. Points are finite, in ascending order of x, and y grows upwards.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TypeVar

Point = tuple[float, float]
T = TypeVar("T")

SIDE = 1000  # units: the side of the square that a path lies in, which the page stretches
_COLUMNS = 250  # of a path, at most


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Args:
        low: Value at its beginning.
        high: Value at its end.
        log: Whether equal distances are equal factors; then both ends are positive.
    """

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value: 0 at `low`, 1 at `high`, and never outside."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0

    def ticks(self, wanted: int) -> list[float]:
        """About `wanted` round values between the ends."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(decades) <= 2 else (1,)
            values = [factor * 10.0**power for power in (decades[0] - 1, *decades) for factor in factors]
        else:
            unit = _round_up((self.high - self.low) / wanted)
            values = [
                unit * index for index in range(math.ceil(self.low / unit - 1e-9), int(self.high / unit + 1e-9) + 1)
            ]
        return [value for value in values if self.low <= value * (1 + 1e-9) and value <= self.high * (1 + 1e-9)]


def around(values: Sequence[float], wanted: int = 5) -> Axis:
    """An even axis that holds the values and ends in round numbers; from 0, unless the values keep far from it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(low, 0.0) if low < 0.5 * high or high <= 0 else low
    if high - low < 1e-6 * max(abs(high), 1e-6):  # a flat line
        high = low + (abs(low) if abs(low) > 1e-6 else 1.0)
    unit = _round_up((high - low) / wanted)
    return Axis(unit * math.floor(low / unit + 1e-9), unit * math.ceil(high / unit - 1e-9))


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9))


def spread(items: Sequence[T], wanted: int) -> list[T]:
    """At most `wanted` of the items, spread evenly, the first and the last among them."""
    if len(items) <= wanted:
        return list(items)
    return [items[round(index * (len(items) - 1) / (wanted - 1))] for index in range(wanted)]


def smoothed(points: Sequence[Point], share: float = 0.1) -> list[Point]:
    """Each point's y replaced by the mean of those whose x is within that share of its own, half to each side."""
    sums = list(accumulate((y for _, y in points), initial=0.0))
    xs = [x for x, _ in points]
    result = []
    for x in xs:
        first, last = bisect_left(xs, x * (1 - share / 2)), bisect_right(xs, x * (1 + share / 2))
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def line(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """A path through the mean of each column.

    Args:
        points: (x, y), in the order of x.
        x: Of the steps.
        y: Of the values.
    """
    return _path((column, [sum(ys) / len(ys)]) for column, ys in _columns(points, x, y))


def steps(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """A path through the lowest and highest point of each column: all that a line through every point would cover.

    Args:
        points: (x, y), in the order of x.
        x: Of the steps.
        y: Of the values.
    """
    return _path((column, sorted({min(ys), max(ys)})) for column, ys in _columns(points, x, y))


def dots(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """A path of lines without length, which round caps turn into dots: the last point of each column.

    Args:
        points: (x, y), in the order of x.
        x: Of the steps.
        y: Of the values.
    """
    return "".join(f"M{column} {round(ys[-1])}h0" for column, ys in _columns(points, x, y))


def _columns(points: Sequence[Point], x: Axis, y: Axis) -> Iterator[tuple[int, list[float]]]:
    """The points by columns, as x in units and the ys, which grow downwards in SVG."""
    unit = SIDE // _COLUMNS
    placed = ((unit * round(_COLUMNS * x.at(a)), SIDE * (1 - y.at(b))) for a, b in points)
    for column, group in groupby(placed, key=lambda place: place[0]):
        yield column, [b for _, b in group]


def _path(columns: Iterator[tuple[int, list[float]]]) -> str:
    places = [f"{column} {round(b)}" for column, ys in columns for b in ys]
    return "M" + "L".join(places) if places else ""
