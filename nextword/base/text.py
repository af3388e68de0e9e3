"""Numbers and text as people read them: counts, sizes, durations, and characters that would steer a terminal.

Promises: `printable` leaves nothing in a text that a terminal or an HTML parser obeys, tabs and line ends excepted.
"""

from __future__ import annotations

import math

# Control characters as their pictures (U+2400 and on); those without a picture, and what is no character, as U+FFFD.
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], 0xFFFD),
}


def printable(text: str) -> str:
    """The text with a picture for each control character, tabs and line ends excepted.

    >>> printable("red: \\x1b[31m")
    'red: ␛[31m'
    """
    return text.translate(_PICTURES)


def count(value: float) -> str:
    """A number of things, in words from a million on.

    >>> count(9830), count(1_234_567)
    ('9,830', '1.23 million')
    """
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:,.3g} {name}"
    return f"{value:,.0f}"


def figure(value: float) -> str:
    """A number with three significant digits.

    >>> figure(0.2957), figure(2.1)
    ('0.296', '2.10')
    """
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in its largest unit, with two significant digits below ten of that unit.

    >>> duration(58), duration(12_600), duration(172_800)
    ('58 seconds', '3.5 hours', '2 days')
    """
    units = ((99.5, 1, "second"), (5970, 60, "minute"), (129_600, 3600, "hour"), (math.inf, 86_400, "day"))
    unit, name = next((unit, name) for limit, unit, name in units if seconds < limit)
    amount = f"{seconds / unit:.2g}" if seconds / unit < 9.95 else f"{seconds / unit:,.0f}"
    return f"{amount} {name}{'' if amount == '1' else 's'}"


def size(n_bytes: float) -> str:
    """A number of bytes in decimal units.

    >>> size(24_870_000), size(143e6), size(77), size(1)
    ('24.9 MB', '143 MB', '77 bytes', '1 byte')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}" if n_bytes < 100 * unit else f"{n_bytes / unit:.0f} {name}"
    return "1 byte" if n_bytes == 1 else f"{n_bytes:.0f} bytes"


def finite(value: float) -> float | None:
    """The number, or None for those that JSON has no way to write (nan and the infinities).

    >>> finite(0.5), finite(math.inf)
    (0.5, None)
    """
    return value if math.isfinite(value) else None
