"""What a notebook's cell shows, in a real browser: drawn, as text, in a frame that reaches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nextword
from nextword.sample.settings import Sampling
from nextword.web.pages.notebook import generation_html, prediction_html, receipt_html
from tests.web.looks import shot

EVIL = "She ate</script></iframe><script>top.stolen = 1</script><img src=x onerror='top.stolen=1'>\" onload=\"1 apple"


@pytest.fixture(scope="module")
def gpt() -> Any:
    return nextword.open("tales", device="cpu")


@pytest.fixture(scope="module")
def cells(gpt: Any) -> dict[str, str]:
    written = gpt.generate(EVIL, max_tokens=40, seed=3).finish()
    return {
        "prediction": prediction_html(gpt.predict(EVIL, Sampling(temperature=0.7, min_p=0.05))),
        "generation": generation_html(written, gpt.tokenizer),
        "receipt": receipt_html(gpt.receipt(EVIL, seed=3, sampling=Sampling(), count=4)),
    }


@pytest.fixture
def notebook(browser: Any, cells: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """A page that holds the cells, as a notebook does; in the end nothing may have been asked for or complained of."""
    (tmp_path / "notebook.html").write_text("<!doctype html><body>" + "".join(cells.values()), "utf-8")
    page = browser.new_page(viewport={"width": 900, "height": 1800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "notebook.html").as_uri())
    page.frames[1].wait_for_selector("nw-distribution li")
    yield page
    page.close()
    assert said == []
    assert {url for url in asked if url != "about:srcdoc"} == {(tmp_path / "notebook.html").as_uri()}


def test_every_cell_is_drawn(notebook: Any, gpt: Any) -> None:
    prediction, generation, receipt = notebook.frames[1:]
    assert prediction.locator("nw-distribution .nw-bar").count() == 11
    assert prediction.locator("nw-merges li").count() == 24
    assert "outline is the model's own probability" in prediction.locator("nw-distribution").inner_text()
    text = gpt.generate(EVIL, max_tokens=40, seed=3).finish().text
    assert generation.locator(".words").inner_text().split() == text.split()
    receipt.wait_for_selector("nw-why li")
    assert receipt.locator(".nw-arcs text").count() == 25
    assert receipt.locator("nw-leave-one-out li").count() == 6
    assert receipt.locator(".nw-bigrams .nw-this").count() == 1
    shot(notebook, "notebook")


def test_a_prompt_is_text_and_nothing_leaves_the_frame(notebook: Any, cells: dict[str, str]) -> None:
    assert notebook.evaluate("window.stolen") is None
    assert notebook.locator("iframe").count() == 3
    assert notebook.locator("body > :not(iframe)").count() == 0
    assert all("<script" not in cell for cell in cells.values())
    for frame in notebook.frames[1:]:
        assert frame.locator("img").count() == 0


def test_an_unfiltered_prediction_says_no_filters(gpt: Any) -> None:
    assert "&quot;sampling&quot;: null" in prediction_html(gpt.predict("She ate an apple"))


def test_the_extension_shows_them_in_a_notebook() -> None:
    """`%load_ext nextword` calls this function of the package."""
    shown: dict[type, Any] = {}
    formatter = SimpleNamespace(for_type=shown.__setitem__)
    formatters = {"text/html": formatter}
    nextword.load_ipython_extension(SimpleNamespace(display_formatter=SimpleNamespace(formatters=formatters)))
    gpt = nextword.open("tales")
    generation = gpt.generate("Once", max_tokens=3, seed=1).finish()
    assert "<iframe" in shown[type(generation)](generation)
    prediction = gpt.predict("Once")
    assert "<iframe" in shown[type(prediction)](prediction)
