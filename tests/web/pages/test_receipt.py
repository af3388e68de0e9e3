"""The receipt's page in a real browser: it opens, asks for nothing, runs nothing from a prompt, and can be replayed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.base.html import inline_json
from nextword.errors import CorruptFile, InputError
from nextword.sample.settings import Sampling
from nextword.trace.receipt.receipt import VERSION
from nextword.web.pages.receipt import ELEMENTS, read_receipt, render, write_page
from tests.web.looks import faint, shot, unnamed

EVIL = "She ate</script><script>window.stolen = 1</script><!-- <img src=x onerror='window.stolen=1'> &amp; \u2028 apple"


@pytest.fixture(scope="module")
def receipt() -> dict[str, Any]:
    gpt = nextword.open("tales", device="cpu")
    return gpt.receipt(EVIL, sampling=Sampling(temperature=0.8, min_p=0.02), seed=7, name="tales").to_json()


@pytest.fixture(scope="module")
def viewed() -> dict[str, Any]:
    gpt = nextword.open("tales", device="cpu")
    return gpt.receipt(EVIL, sampling=Sampling(temperature=0.8, min_p=0.02), seed=7, name="tales").with_views()


@pytest.fixture
def whole(browser: Any, viewed: dict[str, Any], tmp_path: Path) -> Iterator[Any]:
    """The page of a receipt with its views; in the end it may have asked for nothing and complained of nothing."""
    write_page(tmp_path / "views.html", viewed)
    page = browser.new_page(viewport={"width": 375, "height": 800})
    events: list[str] = []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto((tmp_path / "views.html").as_uri())
    yield page
    assert page.evaluate("window.stolen") is None
    page.close()
    assert events == [(tmp_path / "views.html").as_uri()]


@pytest.fixture
def shown(browser: Any, receipt: dict[str, Any], tmp_path: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page of the receipt, what its console said and what it asked for."""
    write_page(tmp_path / "why.html", receipt)
    page = browser.new_page(viewport={"width": 375, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "why.html").as_uri())
    yield page, said, asked
    page.close()


def test_the_page_opens_and_asks_for_nothing(shown: tuple[Any, list[str], list[str]], tmp_path: Path) -> None:
    page, said, asked = shown
    assert said == []
    assert asked == [(tmp_path / "why.html").as_uri()]
    assert page.evaluate("window.stolen") is None
    assert page.locator("script").count() == 2


def test_every_station_is_drawn(shown: tuple[Any, list[str], list[str]], receipt: dict[str, Any]) -> None:
    page, _, _ = shown
    for name in ("tokens", "lens", "distribution", "draw", "why", "sources"):
        assert page.locator(f"nw-{name} p").count() > 0, name
    assert page.locator("nw-distribution .nw-bar rect.nw-outline").count() == len(receipt["distribution"]["rows"]) + 1
    assert page.locator("nw-why li").count() == len(receipt["why"]["components"]) + 2
    assert page.locator("nw-why .nw-dot").count() == len(receipt["why"]["components"])
    failed = sum(not component["holds"] for component in receipt["why"]["components"])
    assert page.locator("nw-why .nw-failed").count() == failed
    assert page.locator("nw-tokens li").count() == len(receipt["prompt"]["ids"])
    widths = page.locator("nw-distribution rect.nw-outline").evaluate_all(
        "all => all.map(each => each.width.baseVal.value)"
    )
    shares = [row["probability"] for row in receipt["distribution"]["rows"]]
    assert widths[0] / widths[1] == pytest.approx(shares[0] / shares[1], rel=1e-3)


def test_the_views_of_the_studio_are_in_the_file(whole: Any, viewed: dict[str, Any]) -> None:
    views = viewed["views"]
    assert whole.locator("nw-merges li").count() == len(views["merges"]["tokens"])
    assert whole.locator("nw-merges .nw-whole").count() < len(views["merges"]["tokens"])
    whole.locator("nw-merges input").fill(whole.get_attribute("nw-merges input", "max"))
    assert whole.locator("nw-merges .nw-whole").count() == len(views["merges"]["tokens"])
    assert whole.locator(".nw-arcs text").count() == len(views["attention"]["tokens"])
    assert whole.locator(".nw-depths li").count() == len(views["attention"]["lens"])
    whole.locator(".nw-heads button").nth(2).click()
    last = viewed["model"]["layers"] - 1
    assert whole.locator('.nw-heads [aria-pressed="true"]').inner_text().startswith(f"head {last}.1")
    assert whole.locator("nw-leave-one-out .nw-rows li").count() == 6
    assert whole.locator("nw-leave-one-out details tbody tr").count() == len(views["leave_one_out"]["rows"])
    assert whole.locator(".nw-bigrams tbody tr").count() == len(views["bigrams"]["rows"])
    assert whole.locator(".nw-bigrams .nw-this").count() == 1
    assert "script" in whole.locator("nw-leave-one-out details").text_content()
    assert whole.locator("img").count() == 0
    assert whole.evaluate("document.documentElement.scrollWidth") <= 375
    assert unnamed(whole) == []
    whole.check("#expert")
    assert whole.evaluate("document.documentElement.scrollWidth") <= 375
    shot(whole, "receipt-375")


def test_a_page_draws_what_its_receipt_holds(receipt: dict[str, Any], viewed: dict[str, Any]) -> None:
    """A receipt without views, as older ones and the API's are, is drawn as before and carries no code for them."""
    old, new = render(receipt), render(viewed)
    for name in ("merges", "attention", "leave-one-out", "bigrams"):
        assert f"nw-{name}" in new
        assert f"<nw-{name}" not in old
        assert f'define("nw-{name}"' not in old
    assert {key: value for key, value in viewed.items() if key != "views"} == receipt
    heads = viewed["model"]["layers"] * viewed["model"]["heads"]
    assert len(new) < len(old) + 26_000 + 250 * heads


def test_a_prompt_is_shown_as_text(shown: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = shown
    assert "</script><script>window.stolen = 1</script>" in page.locator("q").inner_text()
    assert page.locator("img").count() == 0


def test_a_bar_lights_up_the_word_it_came_from(shown: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = shown
    bar = page.locator("nw-why li[data-source]").first
    bar.hover()
    assert page.locator(f'[data-position="{bar.get_attribute("data-source")}"].nw-linked').count() == 2


def test_a_number_tells_how_it_is_known(shown: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = shown
    for name in ("lens", "distribution", "why"):
        assert page.get_attribute(f"nw-{name} > details", "open") is None
        page.locator(f"nw-{name} .nw-rows .nw-number").first.click()
        assert page.get_attribute(f"nw-{name} > details", "open") is not None


def test_it_fits_a_phone_and_works_by_keyboard(shown: tuple[Any, list[str], list[str]]) -> None:
    page, _, _ = shown
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("details[open]").count() == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("details[open]").count() == page.locator("details").count() > 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("svg:not([role=img][aria-label])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, viewed: dict[str, Any], tmp_path: Path, scheme: str) -> None:
    """WCAG AA: 4.5 to 1 for text, on the background that it stands on."""
    write_page(tmp_path / "why.html", viewed)
    page = browser.new_page(color_scheme=scheme)
    page.goto((tmp_path / "why.html").as_uri())
    page.check("#expert")
    pale = faint(page)
    shot(page, f"receipt-{scheme}")
    page.close()
    assert pale == []


def test_the_file_holds_the_receipt(receipt: dict[str, Any], viewed: dict[str, Any], tmp_path: Path) -> None:
    for each in (receipt, viewed):
        write_page(tmp_path / "why.html", each)
        assert read_receipt(tmp_path / "why.html") == each
    (tmp_path / "why.json").write_text(json.dumps(receipt))
    assert read_receipt(tmp_path / "why.json") == receipt


def test_nothing_of_the_data_means_anything_to_html(receipt: dict[str, Any]) -> None:
    assert not set("<>&\u2028") & set(inline_json(receipt))
    page = render(receipt)
    assert page.count("<script") == 2
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)


def test_names_of_the_joined_components_differ() -> None:
    folder = Path(nextword.__file__).parent / "web" / "pages" / "elements"
    assert {path.stem for path in folder.glob("*.js")} >= set(ELEMENTS)
    sources = [(folder / f"{name}.js").read_text() for name in ("parts", *ELEMENTS)]
    names = [
        n for code in sources for n in re.findall(r"^(?:export )?(?:const|function|class) (\w+)", code, re.MULTILINE)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{}", b"<html></html>", b"[" * 100_000])
def test_a_file_that_is_no_receipt_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CorruptFile):
        read_receipt(tmp_path / "file")
    with pytest.raises(InputError):
        read_receipt(tmp_path / "missing")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_the_command_line_writes_and_replays(tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    code, out, err = run("explain", "She ate an apple", "--seed", "7", "--html", str(page), "--top", "5")
    assert code == 0
    assert "claims hold" in out
    assert "nextword index" in out
    assert "replay" in err
    code, out, _ = run("replay", str(page))
    assert code == 0
    assert "Every number holds" in out
    assert "views" in out
    whole = page.read_text()
    page.write_text(re.sub(r'"before": 0\.\d', '"before": 0.9', whole, count=1))
    code, out, _ = run("replay", str(page), "--json")
    assert [group["group"] for group in json.loads(out)["groups"] if not group["holds"]] == ["views"]
    page.write_text(whole)
    page.write_text(re.sub(r'"claim": -?0\.\d', '"claim": 7.0', page.read_text(), count=1))
    code, out, _ = run("replay", str(page), "--json")
    assert code == 1
    verdict = json.loads(out)
    assert [group["group"] for group in verdict["groups"] if not group["holds"]] == ["attribution"]
    page.write_text(page.read_text().replace(f'"receipt": {VERSION}', '"receipt": 99'))
    code, _, err = run("replay", str(page))
    assert (code, err.count("\n")) == (1, 1)
    assert "version 99" in err
    assert run("explain", "She", "--seed", "7", "--token", " pie")[0] == 2
    for nowhere in (tmp_path, tmp_path / "no" / "why.html"):
        code, out, err = run("explain", "She", "--html", str(nowhere))
        assert (code, out) == (1, "")
        assert "a folder that is there" in err
    code, _, err = run("replay", str(tmp_path / "no.html"))
    assert code == 1
    assert "cannot be read" in err
