"""What the pages' tests look at: screenshots, and the contrast of text with what it stands on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
# Text's own colour, opacity counted, on the nearest background that is not clear.
_COLOURS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const own = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
    || e.matches("input:not([type=range], [type=checkbox]), textarea, select");
  return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && own(e)).map((e) => {
    let back = e, opacity = 1;
    for (let at = e; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    while (back.parentElement && rgba(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
    const style = getComputedStyle(e);
    const text = e instanceof SVGElement ? style.fill : style.color;
    return [e.outerHTML.slice(0, 90), rgba(text).slice(0, 3), rgba(getComputedStyle(back).backgroundColor), opacity];
  });
}"""


def kept(name: str) -> Path:
    """Where a screenshot is kept, under build/."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS / f"{name}.png"


def shot(page: Any, name: str) -> None:
    """Keep what the whole page looks like."""
    page.screenshot(path=kept(name), full_page=True)


def wait_until(holds: Callable[[], bool], seconds: float = 5) -> bool:
    """The page forbids itself `eval`, which playwright's own waiting for a condition needs."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


# An <output> inside a label takes the label for itself, so what a label holds must be asked of the browser.
_UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea, summary, [role=img], [role=region]")
  ]
  .filter((e) => e.checkVisibility() && !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 90))"""


def unnamed(page: Any) -> list[str]:
    """Visible controls and pictures that have no name for who hears the page."""
    found: list[str] = page.evaluate(_UNNAMED)
    return found


def faint(page: Any) -> list[str]:
    """Visible text with less contrast than WCAG AA asks for (4.5 to 1), as far as the page is open."""
    found = page.evaluate(_COLOURS)
    assert len(found) > 20
    pale = []
    for place, text, back, opacity in found:
        assert back[3] == 255, place
        seen = [opacity * front + (1 - opacity) * behind for front, behind in zip(text, back, strict=False)]
        if (ratio := contrast(seen, back[:3])) < 4.5:
            pale.append(f"{ratio:.2f}: {place}")
    return pale


def contrast(first: list[float], second: list[float]) -> float:
    """The ratio of two sRGB colours (0 to 255) by WCAG 2."""
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
