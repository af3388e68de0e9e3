"""The studio: its answers, and its page in a real browser; screenshots are kept under build/."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import pytest

import nextword
from nextword.parameters.open import open_stored
from nextword.trace.text.indexed import index_files
from nextword.web.app import create_app
from nextword.web.guard import Rules
from nextword.web.studio.compare import compare
from nextword.web.studio.requests import DrawRequest
from nextword.web.studio.routes import studio_router
from tests.web.looks import faint, kept, shot, unnamed, wait_until
from tests.web.served import call, served

KING = "The king had three sons, and the youngest"
SHAPE = open_stored("tales").architecture


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little text with its index, cut as the model cuts."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "king.txt").write_text("Once upon a time. " * 20 + f"{KING} was called Boots. " * 3, "utf-8")
    index_files([str(folder / "king.txt")], nextword.open("tales").tokenizer, folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def address(text: Path) -> Iterator[str]:
    app = fastapi.FastAPI()
    others = {"again": nextword.open("tales")}
    app.include_router(studio_router(nextword.open("tales"), threading.Lock(), name="tales", others=others, text=text))
    with served(app) as address:
        yield address


def ask(address: str, name: str, **body: Any) -> Any:
    status, answer = call(address, f"/studio/api/{name}", {"prompt": KING, **body})
    assert status == 200, answer
    return answer


def test_only_listed_files_are_served(address: str) -> None:
    status, page = call(address, "/")
    assert (status, page.startswith("<!doctype html>")) == (200, True)
    assert call(address, "/studio/static/elements/distribution.js")[0] == 200
    for path in ("../routes.py", "%2e%2e/routes.py", "elements/README.md", "/etc/passwd", "elements/../receipt.py"):
        assert call(address, f"/studio/static/{path}")[0] == 404


@pytest.mark.parametrize(
    ("name", "body", "part"),
    [
        ("distribution", {"prompt": ""}, "type at least one character"),
        ("distribution", {"prompt": "a", "temperature": -1}, "temperature must be"),
        ("distribution", {"prompt": "a", "chosen": [10**6]}, "no token 1000000"),
        ("distribution", {"prompt": "a", "number": 1}, "number"),
        ("distribution", {"prompt": 7}, "prompt"),
        ("tokens", {"prompt": "a\ud800"}, "valid string"),
        ("distribution", {"prompt": "word " * 3000}, "context"),
        ("leave_one_out", {"prompt": "a"}, "which token"),
        ("leave_one_out", {"prompt": "a", "token": 10**6}, "no token 1000000"),
        ("ablate", {"prompt": "a", "layer": 3, "head": 99}, f"units 0 to {SHAPE.n_heads - 1}"),
        ("ablate", {"prompt": "a", "layer": 99, "head": 0}, "no point"),
        ("distribution", {"prompt": "a" * 200_000}, "over 100,000 characters long; shorten it"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(address: str, name: str, body: Any, part: str) -> None:
    status, answer = call(address, f"/studio/api/{name}", body)
    assert status == 400
    assert part in answer["error"]["message"]


def test_merges_go_from_bytes_to_the_token(address: str) -> None:
    reply = ask(address, "tokens", prompt="Straße ate 漢")
    made = {token: steps for token, steps in zip(reply["tokens"], reply["merges"], strict=True) if steps}
    assert made[" ate"][0] == [" ", "a", "t", "e"]
    for token, steps in made.items():
        assert steps[-1] == [token]
        assert [len(step) for step in steps] == list(range(len(steps), 0, -1))


def test_probabilities_add_up_and_the_draw_is_what_generate_draws(address: str) -> None:
    reply = ask(address, "distribution", seed=7)
    for column in ("probability", "filtered_probability"):
        shown = sum(row[column] for row in reply["distribution"]["rows"]) + reply["distribution"]["more"][column]
        assert shown == pytest.approx(1, abs=1e-9)
    low, high = reply["draw"]["interval"]
    assert low <= reply["draw"]["number"] < high
    step = next(iter(nextword.open("tales").generate(KING, seed=7, max_tokens=1)))
    assert (step.token.id, step.token.uniform) == (reply["draw"]["token"]["id"], reply["draw"]["number"])
    assert ask(address, "next", seed=7)["id"] == step.token.id


def test_a_number_by_hand_chooses_another_word(address: str) -> None:
    segment = ask(address, "distribution", seed=7)["draw"]["segments"][0]
    low, high = segment["interval"]
    reply = ask(address, "distribution", seed=7, number=(low + high) / 2)
    assert reply["draw"]["token"]["id"] == segment["id"]
    assert reply["draw"]["by_hand"]


def test_patterns_are_shares_and_a_removed_head_changes_the_probabilities(address: str) -> None:
    look = ask(address, "look")
    assert len(look["lens"]) == len(look["layers"]) + 1
    assert all(sum(head["pattern"]) == pytest.approx(1, abs=1e-4) for heads in look["layers"] for head in heads)
    reply = ask(address, "ablate", layer=3, head=1)
    for side in ("before", "after"):
        assert sum(row[side] for row in reply["rows"]) + reply["rest"][side] == pytest.approx(1)
    assert any(abs(row["before"] - row["after"]) > 1e-4 for row in reply["rows"])


def test_a_word_left_out_leaves_the_probabilities_of_the_shorter_text(address: str) -> None:
    distribution = ask(address, "distribution", temperature=0)["distribution"]
    reply = ask(address, "leave_one_out", token=distribution["chosen"]["id"])
    assert reply["before"] == pytest.approx(distribution["chosen"]["probability"])
    assert [row["words"].strip() for row in reply["rows"]] == "The king had three sons , and the youngest".split()
    shorter = nextword.open("tales").predict(KING.removesuffix(" youngest")).row(reply["token"]["id"])
    assert reply["rows"][-1]["after"] == pytest.approx(shorter.probability, rel=1e-6)
    assert all(
        row["change"] == pytest.approx(np.log(row["after"] / reply["before"]), abs=1e-9) for row in reply["rows"]
    )
    assert reply["earlier"] == 0
    assert ask(address, "leave_one_out", prompt=("word " * 30).strip(), token=5)["earlier"] == 6


def test_a_pair_is_told_by_the_text_the_weights_and_the_model(address: str) -> None:
    reply = ask(address, "why", token=ask(address, "distribution", temperature=0)["distribution"]["chosen"]["id"])[
        "bigrams"
    ]
    assert reply["first"] == " youngest"
    (chosen,) = (row for row in reply["rows"] if row["chosen"])
    assert chosen["tokens"] == [" was"]
    assert (chosen["count"], chosen["of"]) == (3, 3)
    assert (reply["vocab"], reply["tied"]) == (8192, True)
    probabilities = {
        row["id"]: row["probability"] for row in ask(address, "distribution", rows=200)["distribution"]["rows"]
    }
    for row in reply["rows"]:
        assert row["probability"] == pytest.approx(probabilities.get(row["ids"][0], 0), abs=2e-3)
    bare = call(address, "/studio/api/why", {"prompt": KING, "model": "again"})[1]["bigrams"]
    assert {row["count"] for row in bare["rows"]} == {None}


def test_marks_are_told_from_text(address: str) -> None:
    assert ask(address, "tokens", prompt="Once <|endoftext|>")["marks"].count(True) == 1
    end = nextword.open("tales").tokenizer.bos_id
    assert ask(address, "tokens", chosen=[end])["marks"][-1]


def grave(message: Any) -> bool:
    """Chromium itself notes each answer 400; everything else in the console is a fault."""
    return message.type in ("error", "warning") and "status of 400" not in message.text


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; in the end nothing may stand in the console, and no other server may have been asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, said, asked = context.new_page(), [], []
    page.set_default_timeout(15_000)
    page.on("console", lambda message: said.append(message.text) if grave(message) else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("nw-distribution li")
    yield page
    context.close()
    assert said == []
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


def type_prompt(page: Any, text: str) -> None:
    with page.expect_response("**/api/distribution"):
        page.fill("#prompt", text)
    page.locator("#error").wait_for(state="hidden")


def test_a_word_is_watched_from_text_to_reasons(page: Any) -> None:
    type_prompt(page, "She ate an apple")
    page.locator("nw-tokens .nw-chips > li", has_text="4870").wait_for()
    assert "4870" in page.inner_text("nw-tokens")

    bars = (
        "() => [...document.querySelectorAll('.nw-distribution-fill')].map((bar) => bar.getAttribute('width')).join()"
    )
    before = page.evaluate(bars)
    with page.expect_response("**/api/distribution"):
        page.fill("#temperature", "1.5")
    assert wait_until(lambda: page.evaluate(bars) != before)
    assert page.inner_text("label:has(#temperature) output") == "1.5"

    word = page.inner_text("#word bdi")
    page.click("#next")
    page.wait_for_selector("#timeline li")
    assert word.strip() in page.inner_text("#timeline")
    assert page.inner_text("#written").startswith("She ate an apple")

    page.click("#layers > details > summary")
    page.wait_for_selector(".nw-arcs path")
    assert page.locator(".nw-depths li").count() == SHAPE.n_layers + 1
    page.click("#ask-why")
    page.wait_for_selector("nw-why li")
    assert page.locator("nw-why .nw-mark", has_text="✓").count() > 0
    assert wait_until(lambda: "spoke for it most" in page.inner_text("#why .say"))
    page.locator("#heads button").first.click()
    page.wait_for_selector("studio-beside li")
    shot(page, "studio-why")

    page.locator("#timeline button").first.click()
    page.locator("#timeline li[aria-current]").wait_for()


def test_a_receipt_is_downloaded(page: Any, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.click("#share")
    download.value.save_as(tmp_path / "receipt.html")
    assert "The king had three sons" in (tmp_path / "receipt.html").read_text("utf-8")


def test_a_prompt_with_markup_is_text(page: Any) -> None:
    type_prompt(page, "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">")
    page.click("#next")
    page.wait_for_selector("#timeline li")
    assert "<script>" in page.inner_text("#written")
    assert page.title() == "nextword studio"
    assert page.locator("main img, main script, #written img, #written script").count() == 0


def test_an_error_is_a_sentence_in_place_and_goes_away(page: Any) -> None:
    page.fill("#prompt", "")
    page.locator("#error", has_text="type at least one character").wait_for()
    assert page.locator("main").is_hidden()  # it was about another text
    type_prompt(page, "Once")
    page.locator("main").wait_for()
    page.fill("#prompt", "word " * 3000)
    page.locator("#error", has_text="context").wait_for()
    page.fill("#prompt", "lorem ipsum " * 8_000)
    page.locator("#error", has_text="tokens").wait_for()
    assert page.locator("nw-tokens li").count() < 10


def test_a_slow_answer_is_told(page: Any) -> None:
    def slowly(route: Any) -> None:
        time.sleep(0.8)
        route.continue_()

    page.route("**/api/distribution", slowly)
    page.fill("#prompt", "Once upon")
    page.locator("#distribution .busy").wait_for(state="visible")
    page.locator("#distribution .busy").wait_for(state="hidden")


def leave_a_choice(page: Any) -> None:
    """More than one word can come next."""
    with page.expect_response("**/api/distribution"):
        page.fill("#temperature", "1.5")
    assert wait_until(lambda: page.locator("#distribution .nw-distribution-rows li:not(.nw-removed)").count() > 1)


def test_the_number_and_a_bar_can_be_chosen_by_keyboard_and_pointer(page: Any) -> None:
    leave_a_choice(page)
    word = page.inner_text("#word bdi")
    page.focus("#number")
    page.keyboard.press("Home" if float(page.input_value("#number")) > 0.5 else "End")
    assert wait_until(lambda: page.inner_text("#word bdi") != word)
    page.click("#fate")
    assert wait_until(lambda: page.inner_text("#word bdi") == word)
    page.locator("#distribution .nw-distribution-rows li:not(.nw-this)").first.click()
    page.wait_for_selector("nw-why li")
    assert page.input_value("#contrast") != ""


def test_the_number_is_dragged_along_its_line(page: Any) -> None:
    page.locator("#draw").scroll_into_view_if_needed()
    box = page.locator("nw-draw .nw-line svg").bounding_box()
    number = float(page.input_value("#number"))
    to = 0.02 if number > 0.5 else 0.98
    page.mouse.move(box["x"] + number * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + to * box["width"], box["y"] + 30, steps=6)
    assert wait_until(lambda: abs(float(page.input_value("#number")) - to) < 0.01)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    assert abs(float(page.input_value("#number")) - to) < 0.01
    page.locator("nw-draw", has_text="set by hand").wait_for()
    page.locator("nw-draw", has_text=f"{float(page.input_value('#number')):.4f}").wait_for()
    word = page.inner_text("#word bdi")
    page.click("#next")
    page.locator("#latest", has_text="You chose it").wait_for()
    assert word.strip() in page.inner_text("#latest")


def test_a_late_answer_does_not_move_the_number(page: Any) -> None:
    def slowly(route: Any) -> None:
        time.sleep(0.1)
        route.continue_()

    page.locator("#draw").scroll_into_view_if_needed()
    page.evaluate("""() => {
        window.places = [];
        const note = () => window.places.push(Number(document.querySelector("#number").value));
        new MutationObserver(note).observe(document.querySelector("nw-draw"), { childList: true, subtree: true });
    }""")
    page.route("**/api/distribution", slowly)
    box = page.locator("nw-draw .nw-line svg").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + 30)
    page.mouse.up()
    page.locator("nw-draw", has_text="0.05").wait_for()
    places = page.evaluate("window.places")
    assert places
    assert all(abs(place - 0.05) < 0.01 for place in places)


def test_another_word_is_a_branch_and_the_way_before_is_kept(page: Any) -> None:
    leave_a_choice(page)
    for _ in range(2):
        with page.expect_response("**/api/distribution"):
            page.click("#next")
    first = page.inner_text("#written")
    assert page.locator("#branches").is_hidden()
    with page.expect_response("**/api/distribution"):
        page.locator("#timeline button").first.click()
    page.focus("#number")
    page.keyboard.press("Home" if float(page.input_value("#number")) > 0.5 else "End")
    page.locator("nw-draw", has_text="set by hand").wait_for()
    page.click("#next")
    assert wait_until(lambda: page.locator("#branches button").count() == 1)
    other = page.inner_text("#written")
    assert other != first
    page.locator("#branches button").click()
    assert wait_until(lambda: page.inner_text("#written") == first)
    page.locator("#branches button").click()
    assert wait_until(lambda: page.inner_text("#written") == other)
    assert page.locator("#branches button").count() == 1
    page.click("#begin")
    assert wait_until(lambda: page.locator("#branches").is_hidden())


def test_a_word_that_joined_says_what_it_had_and_leads_to_its_reasons(page: Any) -> None:
    assert page.locator("#latest").is_hidden()
    page.click("#next")
    word = page.locator("#latest bdi").inner_text()
    assert "%" in page.inner_text("#latest")
    page.click("#latest button")
    page.locator("nw-leave-one-out li").first.wait_for()
    assert page.inner_text("#word bdi") == word
    assert wait_until(lambda: page.inner_text("#why .say").startswith("Without "))
    assert page.locator("nw-leave-one-out .nw-linked").count() == 0
    page.wait_for_selector("nw-why li")


def test_what_a_setting_does_is_told_where_it_is_set(page: Any) -> None:
    page.focus("#top_p")
    assert page.inner_text("#hint").startswith("top-p")
    page.focus("#temperature")
    assert page.inner_text("#hint").startswith("temperature")
    assert "mark" in page.inner_text("nw-tokens")
    assert page.locator("nw-tokens .nw-bytes").first.is_hidden()
    page.check("#expert")
    assert page.locator("nw-tokens .nw-bytes").first.inner_text() == "54 68 65"


def test_slow_motion_speaks_at_each_station(page: Any) -> None:
    page.click("#tour")
    assert page.is_checked("#slow")
    heard = []
    for _ in range(7):
        heard.append(page.inner_text("#spoken"))
        page.click("#onward")
    assert len(set(heard)) == 7
    assert "8,192 pieces" in heard[2]
    page.wait_for_selector("#timeline li")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_fits_and_is_quick(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("nw-distribution li")
    for name in ("next", "next", "next"):
        with page.expect_response("**/api/distribution"):
            page.click(f"#{name}")
    with page.expect_response("**/api/distribution"):
        page.locator("#timeline button").first.click()
    page.click("#layers > details > summary")
    page.wait_for_selector(".nw-arcs path")
    page.click("#ask-why")
    page.wait_for_selector("nw-why li")
    page.locator("#heads button").first.click()
    page.wait_for_selector("studio-beside li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot(page, f"studio-{width}-{scheme}")
    assert faint(page) == []
    assert unnamed(page) == []
    context.close()


def test_compared_odds_add_up_and_equal_texts_are_equal(address: str) -> None:
    status, reply = call(
        address, "/studio/api/compare", {"left": {"prompt": KING}, "right": {"prompt": "She ate an apple"}}
    )
    assert status == 200
    for side in ("left", "right"):
        assert sum(row[side] for row in reply["rows"]) + reply["rest"][side] == pytest.approx(1, abs=1e-9)
    assert reply["left"]["top1"]["probability"] == max(row["left"] for row in reply["rows"])
    apart = sum(abs(row["left"] - row["right"]) for row in reply["rows"]) / 2
    assert apart <= reply["distance"] <= 1
    same = {"left": {"prompt": KING}, "right": {"prompt": KING, "model": "again"}}
    assert call(address, "/studio/api/compare", same)[1]["distance"] == pytest.approx(0, abs=1e-9)
    status, answer = call(address, "/studio/api/distribution", {"prompt": KING, "model": "nobody"})
    assert (status, "no model 'nobody'" in answer["error"]["message"]) == (400, True)


def test_what_lies_between_two_texts_adds_up(address: str) -> None:
    sides = {"left": {"prompt": KING}, "right": {"prompt": "She ate an apple"}}
    reply = call(address, "/studio/api/compare", sides)[1]
    assert reply["alike"]
    status, parts = call(address, "/studio/api/difference", {**sides, "token": reply["rows"][0]["ids"]["right"]})
    assert (status, parts["texts"]) == (200, True)
    summed = (
        sum(component["change"] for component in parts["components"]) + parts["rest"] + parts["change"]["remainder"]
    )
    assert summed == pytest.approx(parts["change"]["total"], abs=1e-6)
    other = {"left": sides["left"], "right": {**sides["right"], "model": "again"}}
    assert not call(address, "/studio/api/compare", other)[1]["alike"]
    assert not call(address, "/studio/api/compare", {"left": sides["left"], "right": sides["left"]})[1]["alike"]


def test_models_with_other_tokens_are_compared_by_bytes() -> None:
    class Two:
        def __init__(self, name: str, tokens: list[bytes], probabilities: list[float]) -> None:
            self.name, self.token_bytes, self._probabilities = name, tokens, np.array(probabilities)

        def is_like(self, other: Any) -> bool:
            return False

        def probabilities(self, ask: DrawRequest) -> Any:
            return self._probabilities

        def decode_token(self, id: int) -> str:
            return self.token_bytes[id].decode()

    views: Any = (Two("a", [b"x", b"y"], [0.9, 0.1]), Two("b", [b"z", b"x"], [0.5, 0.5]))
    reply = compare(views[0], DrawRequest(prompt="p"), views[1], DrawRequest(prompt="p"))
    assert {row["token"]: (row["left"], row["right"]) for row in reply["rows"]} == {
        "x": (0.9, 0.5),
        "y": (0.1, None),
        "z": (None, 0.5),
    }
    assert reply["distance"] == pytest.approx((0.4 + 0.1 + 0.5) / 2)


STATIONS = {
    "tokens": "nw-merges li",
    "layers": ".nw-arcs path",
    "distribution": "nw-distribution li",
    "leaving": "nw-leave-one-out li",
    "apart": "nw-why li",
    "where": "nw-bigrams tr",
}


def test_every_station_stands_side_by_side(page: Any, address: str) -> None:
    page.click('.views a[href="#compare"]')
    page.wait_for_selector("studio-compare li")
    for station, part in STATIONS.items():
        page.locator(f"#both-{station} > summary").click()
        for side in ("left", "right"):
            page.locator(f"#both-{station} [data-journey={side}] {part}").first.wait_for()
    word = page.locator("#compared-word option:checked").inner_text().strip()
    for element in ("nw-leave-one-out", "nw-why"):
        assert [name.strip() for name in page.locator(f"#both {element} > p bdi.nw-chosen").all_inner_texts()] == [
            word
        ] * 2
    page.locator("#both-apart [data-journey=left] .nw-read [tabindex]").first.hover()
    assert page.locator("[data-journey=left] .nw-linked").count() > 1
    assert page.locator("[data-journey=right] .nw-linked, [data-journey=watch] .nw-linked").count() == 0
    page.fill("#text-right", "<img src=x onerror=alert(1)> She ate an apple")
    assert wait_until(lambda: "apple" in page.locator("#both-tokens [data-journey=right] nw-tokens").inner_text())
    assert page.locator(".view img").count() == 0


def test_two_texts_are_seen_side_by_side(page: Any) -> None:
    page.click('.views a[href="#compare"]')
    page.wait_for_selector("studio-compare li")
    page.fill("#text-right", "<img src=x onerror=alert(1)> She ate an apple")
    with page.expect_response("**/api/compare"):
        page.select_option("#model-right", "tales")
    assert wait_until(lambda: page.locator("studio-compare .change svg").count() > 10)
    assert page.locator("#view-watch").is_hidden()
    assert page.locator("main img, .view img").count() == 0
    page.locator("#differing").wait_for()
    page.fill("#text-right", page.input_value("#text-left"))
    page.locator("#unlike").wait_for()
    assert page.locator("#differing").is_hidden()
    page.go_back()
    assert page.locator("#view-watch").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_compare_and_slow_motion_fit_and_have_contrast(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("nw-distribution li")
    page.check("#slow")
    for _ in range(6):
        assert faint(page) == []
        page.click("#onward")
    page.wait_for_selector("nw-why li")
    assert faint(page) == []
    page.screenshot(path=kept(f"studio-slow-{width}-{scheme}"))
    page.click('.views a[href="#compare"]')
    page.wait_for_selector("studio-compare li")
    page.locator("#differing summary").click()
    page.wait_for_selector("studio-difference li")
    page.locator("studio-compare details summary, studio-difference details summary").first.click()
    for station, part in STATIONS.items():
        page.locator(f"#both-{station} > summary").click()
        page.locator(f"#both-{station} [data-journey=right] {part}").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert unnamed(page) == []
    assert faint(page) == []
    shot(page, f"studio-compare-{width}-{scheme}")
    context.close()


def test_passages_of_the_text_are_shown_with_their_lines(page: Any) -> None:
    with page.expect_response("**/api/distribution"):
        page.fill("#temperature", "0")
    assert wait_until(lambda: page.inner_text("#word bdi").strip() == "was")
    page.click("#ask-where")
    page.locator("nw-sources blockquote").first.wait_for()
    assert "king.txt, line 1" in page.inner_text("nw-sources")
    assert "100" in page.inner_text("nw-bigrams tr.nw-this")


def test_a_layer_and_a_head_are_chosen_beside_what_the_layer_would_have_said(page: Any) -> None:
    page.click("#layers > details > summary")
    page.wait_for_selector(".nw-depths .nw-cell")
    rows = page.locator(".nw-depths li")
    assert rows.nth(0).locator(".nw-cell").count() == 0
    assert rows.nth(3).locator(".nw-cell").count() == SHAPE.n_heads
    rows.nth(3).locator(".nw-cell").nth(1).click()
    assert page.locator('.nw-heads [aria-pressed="true"]').inner_text().startswith("head 2.1")
    assert page.input_value("nw-attention input") == "2"
    rows.nth(5).locator(".nw-where").click()
    assert page.locator('.nw-heads [aria-pressed="true"]').inner_text() == "all heads"
    assert page.input_value("nw-attention input") == "4"


def test_an_arc_is_chosen_by_pointer_and_by_keyboard(page: Any) -> None:
    page.click("#layers > details > summary")
    page.locator(".nw-arcs text", has_text="king").hover()
    assert page.locator(".nw-arcs svg.nw-looked .nw-arc.nw-lit").count() <= 1
    assert page.locator("nw-attention bdi.nw-chosen").inner_text().strip() == "king"
    page.focus(".nw-arcs")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert page.locator(".nw-arcs text.nw-lit").text_content().strip() == "king"


def test_a_bar_and_the_word_it_came_from_light_up_together(page: Any) -> None:
    page.click("#layers > details > summary")
    page.wait_for_selector(".nw-arcs path")
    page.click("#ask-why")
    bars = page.locator("nw-why li[data-source]")
    bars.first.wait_for()
    place = bars.first.get_attribute("data-source")
    linked = f'[data-position="{place}"].nw-linked'
    bars.first.hover()
    assert [page.locator(f"{part} {linked}").count() for part in ("nw-why", "nw-tokens", ".nw-arcs")] == [1, 1, 1]
    page.locator("h2").first.hover()
    assert page.locator(".nw-linked").count() == 0
    word = page.locator("nw-why .nw-read [tabindex]").first
    word.focus()
    place = word.get_attribute("data-position")
    assert page.locator(f'nw-why li[data-source="{place}"].nw-linked').count() >= 1
    assert page.locator(f'nw-why li.nw-linked:not([data-source="{place}"])').count() == 0
    page.keyboard.press("Tab")
    assert page.locator(f'nw-why li[data-source="{place}"].nw-linked').count() == 0


def test_everything_can_be_reached_by_tab(page: Any) -> None:
    wanted = {"prompt", "next", "on", "temperature", "min_p", "number", "seed", "join", "ask-why", "slow", "share"}
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert wanted <= reached


def test_a_browser_asks_for_the_key_once_and_sends_it_along(browser: Any) -> None:
    app = create_app(nextword.open("tales"), name="tales", rules=Rules(api_key="s3cret"))
    with served(app) as address:
        for password, status in (("wrong", 401), ("s3cret", 200)):
            context = browser.new_context(http_credentials={"username": "anybody", "password": password})
            page = context.new_page()
            assert page.goto(address).status == status
            if status == 200:
                page.wait_for_selector("nw-distribution li")
                page.click("#next")
                page.wait_for_selector("#timeline li")
                assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
            context.close()
