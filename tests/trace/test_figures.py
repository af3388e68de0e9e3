"""Figures hold what was found, save without a screen, and say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import nextword
from nextword.errors import InputError
from nextword.trace.figures import attention_figure, attribution_figure, history_figure, lens_figure

pytest.importorskip("matplotlib", reason="figures need nextword[figures]")


def test_an_explanation_is_drawn_and_saved(gpt: nextword.GPT, tmp_path: Path) -> None:
    found = gpt.explain("She ate an", " apple", count=5)
    figure = attribution_figure(found)
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([found.claims.contribution(each) for each in found.components])
    assert [label.get_text() for label in axes.get_yticklabels()] == [found.words(each) for each in found.components]
    dots = np.concatenate([line.get_xdata() for line in axes.lines if line.get_label().startswith("measured")])
    assert found.audit is not None
    assert sorted(dots) == pytest.approx(sorted(finding.measured for finding in found.audit.findings))
    for name, start in (("why.svg", b"<?xml"), ("why.png", b"\x89PNG"), ("why.pdf", b"%PDF")):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    (lens,) = lens_figure(found).axes
    assert lens.lines[0].get_ydata()[-1] == pytest.approx(found.probability, rel=1e-4)


def test_attention_has_a_panel_for_each_head(gpt: nextword.GPT) -> None:
    pattern = gpt.record("She ate an apple", ["blocks.2.attention.pattern"])["blocks.2.attention.pattern"]
    tokens = [gpt.tokenizer.token_text(id) for id in gpt.encode("She ate an apple", begin=True)]
    panels = attention_figure(pattern, tokens, "layer 2").axes
    assert len(panels) == gpt.architecture.n_heads
    assert np.array_equal(panels[3].images[0].get_array(), pattern[3].numpy())
    with pytest.raises(InputError, match="heads, time, time"):
        attention_figure(pattern, tokens[:-1])


def test_a_history_is_drawn(tmp_path: Path) -> None:
    run = nextword.start_run(["world:pantry"], tmp_path / "run", nextword.Budget(steps=4), depth=1, seed=1)
    list(run.train())
    found = nextword.history(tmp_path / "run", "She ate an", " apple")
    (axes,) = history_figure(found).axes
    assert list(axes.lines[0].get_xdata()) == [moment.step for moment in found.moments]


def test_without_matplotlib_one_sentence_says_what_to_do(gpt: nextword.GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'nextword\[figures\]'"):
        lens_figure(gpt.explain("She ate an", ablation="none"))
