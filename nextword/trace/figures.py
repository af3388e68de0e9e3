"""Figures of what was found, as matplotlib figures that save to SVG, PNG or PDF.

    attribution_figure(gpt.explain("She ate an", " apple")).savefig("why.svg")

They need matplotlib, which `pip install 'nextword[figures]'` brings, and no screen: nothing is drawn by pyplot, so
there is no global state. Colours are told apart by colour-blind eyes (Okabe and Ito, 2008), and never carry a meaning
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nextword.base.text import printable
from nextword.errors import InputError

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nextword.trace.logit.explanation import Explanation
    from nextword.trace.text.history import History

_FOR, _AGAINST, _LINE = "#009e73", "#d55e00", "#0072b2"
_ROW_HEIGHT, _WIDTH = 0.32, 8.0  # inches
_HEADS_A_ROW = 4  # panels: of a figure of attention


def _new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches. Raises InputError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Figures need matplotlib; get it with: pip install 'nextword[figures]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def attribution_figure(found: Explanation) -> Figure:
    """A bar for the contribution of each listed component, and a dot for what ablating it changed.

    Args:
        found: The explanation; without an audit there are no dots.

    Raises InputError where matplotlib is missing.
    """
    names = [printable(found.words(component)) for component in found.components]
    claims = [found.claims.contribution(component) for component in found.components]
    figure = _new_figure(_WIDTH, 1.2 + _ROW_HEIGHT * len(names))
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.barh(rows, claims, color=[_FOR if claim >= 0 else _AGAINST for claim in claims], label="contribution (claim)")
    if found.audit is not None:
        findings = found.audit.findings
        for holds, marker, label in ((True, "o", "measured, claim holds"), (False, "x", "measured, claim failed")):
            at = [number for number, finding in enumerate(findings) if finding.holds is holds]
            axes.plot([findings[number].measured for number in at], at, marker, color="black", label=label)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"logits; {printable(found.about())}: {found.claims.total:+.2f}")
    axes.set_title(f"{printable(found.decode_token(found.token))!r}, {found.probability:.2%}")
    axes.legend(loc="lower right", fontsize="small")
    return figure


def lens_figure(found: Explanation) -> Figure:
    """The probability of the explained token after each layer, and the most probable token there (the logit lens).

    Args:
        found: The explanation.

    Raises InputError where matplotlib is missing.
    """
    figure = _new_figure(_WIDTH, 3.5)
    axes = figure.subplots()
    layers = [row.layer for row in found.lens]
    axes.plot(layers, [np.exp(row.of_token) for row in found.lens], "o-", color=_LINE)
    tokens = [printable(found.decode_token(row.id)) for row in found.lens]
    axes.set_xticks(layers, ["embed" if layer < 0 else str(layer) for layer in layers])
    axes.set_ylim(0, 1)
    for layer, token in zip(layers, tokens, strict=True):
        axes.annotate(repr(token), (layer, 0.97), rotation=90, ha="center", va="top", fontsize="small")
    axes.set_xlabel("after layer")
    axes.set_ylabel(f"probability of {printable(found.decode_token(found.token))!r}")
    axes.set_title("What each layer would say")
    return figure


def attention_figure(pattern: torch.Tensor, tokens: Sequence[str], title: str = "") -> Figure:
    """The attention pattern of each head of a layer: rows read, columns are read.

    Args:
        pattern: [heads, time, time], as `gpt.record(prompt, ["blocks.3.attention.pattern"])` has it.
        tokens: The texts of the tokens [time].
        title: Above the figure.

    Raises InputError where matplotlib is missing or the sizes differ.
    """
    if pattern.dim() != 3 or pattern.shape[1:] != (len(tokens), len(tokens)):
        raise InputError(f"A pattern of {len(tokens)} tokens is [heads, time, time], not {list(pattern.shape)}.")
    columns = min(_HEADS_A_ROW, len(pattern))
    n_rows = -(-len(pattern) // columns)
    figure = _new_figure(2.2 * columns + 0.8, 2.2 * n_rows + 0.8)
    panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for head, axes in enumerate(panels):
        _draw_head(axes, head, pattern, [printable(token) for token in tokens])
    figure.suptitle(printable(title))
    return figure


def _draw_head(axes: Axes, head: int, pattern: torch.Tensor, names: Sequence[str]) -> None:
    if head >= len(pattern):
        axes.set_visible(False)
        return
    axes.imshow(pattern[head].detach().float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"head {head}", fontsize="small")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
    axes.set_yticks(range(len(names)), names, fontsize="x-small")


def history_figure(found: History) -> Figure:
    """log p of a token over the checkpoints of a run, and where it was learned.

    Args:
        found: What `nextword.history` returns.

    Raises InputError where matplotlib is missing.
    """
    figure = _new_figure(_WIDTH, 3.5)
    axes = figure.subplots()
    steps = [moment.step for moment in found.moments]
    axes.plot(steps, [moment.log_probability for moment in found.moments], "o-", color=_LINE)
    axes.set_xscale("symlog", linthresh=1)
    if found.learned is not None:
        axes.axvspan(found.learned.after, found.learned.by, color=_FOR, alpha=0.2, label="learned")
        axes.legend(fontsize="small")
    axes.set_xlabel("step")
    axes.set_ylabel("log p of the token, nats")
    return figure
