"""Stop strings in a stream of text: found even where they span tokens, and never shown.

Text that could be the beginning of a stop string is held back until the next text decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from nextword.errors import SettingError


class StopScanner:
    """A filter of streamed text; `stopped` is the stop string that ended the text, None before.

    >>> scanner = StopScanner(["END"])
    >>> scanner.push("The E"), scanner.push("ND and more"), scanner.stopped
    ('The ', '', 'END')

    Raises SettingError if a stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise SettingError("A stop string must not be empty.")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> str:
        """Add text. Returns the text that can be shown now: nothing of a stop string, nothing after one."""
        assert self.stopped is None
        self._held += text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:  # the one complete first, so that the result does not depend on where the text was cut
            _, at, self.stopped = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        keep = self._undecided()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """The text that was held back, for a text that ends without a stop string."""
        shown, self._held = self._held, ""
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[len(self._held) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
