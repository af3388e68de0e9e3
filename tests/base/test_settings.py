"""One list of settings: what command line, API and page offer is what the dataclasses define, in their words."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.base.settings import Slider, check_settings, setting, settings_of
from nextword.errors import SettingError
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling
from nextword.trace.settings import ExplainSettings
from nextword.web.app import create_app
from nextword.web.studio.views import Views


@dataclass(frozen=True)
class Example:
    """Two settings."""

    size: int = setting(3, "at least 1", lambda value: value >= 1, slider=Slider(1, 9, 1, (1, "one")))
    """The size,
    in steps."""
    names: list[str] = setting(None, "short", lambda value: len(value) < 3, factory=list)
    """The names."""

    def __post_init__(self) -> None:
        check_settings(self)


def test_a_field_has_its_description_below_it_and_its_range_beside_it() -> None:
    size, names = settings_of(Example).values()
    assert (size.name, size.kind, size.default, size.doc) == ("size", "int", 3, "The size, in steps.")
    assert size.slider == Slider(1, 9, 1, (1, "one"))
    assert (names.default, names.doc, names.slider) == (None, "The names.", None)
    with pytest.raises(SettingError, match="size must be at least 1, not 0"):
        Example(size=0)
    assert Example().names == []
    assert hash(Example(3)) == hash(Example(3, ["a"])), "what can change does not count"


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("verb", "kind"), [("generate", Sampling), ("predict", Sampling), ("explain", ExplainSettings)]
)
def test_every_setting_is_an_option_with_its_description(verb: str, kind: type) -> None:
    shown = squeezed(CliRunner().invoke(cli.app, [verb, "--help"], terminal_width=200).stdout)
    for name, each in settings_of(kind).items():
        option = "--top" if name == "count" else f"--{name.replace('_', '-')}"
        assert option in shown
        assert each.doc in shown, name


@pytest.fixture(scope="module")
def gpt() -> nextword.GPT:
    return nextword.open("tales", device="cpu")


def test_every_setting_is_a_field_of_the_api_with_its_description(gpt: nextword.GPT) -> None:
    app = create_app(gpt, name="tales", rows=1)
    app.state.service.scheduler.close(0)
    schemas = app.openapi()["components"]["schemas"]
    for request in ("CompletionRequest", "ChatRequest"):
        for name, each in settings_of(Sampling).items():
            field = schemas[request]["properties"][name]
            assert field["description"] == each.doc
            if each.default is not None:
                assert field["default"] == getattr(DEFAULT_SAMPLING, name)
    explain = schemas["ExplainRequest"]["properties"]
    for name in ("count", "granularity", "ablation"):
        assert (explain[name]["description"], explain[name]["default"]) == (
            settings_of(ExplainSettings)[name].doc,
            settings_of(ExplainSettings)[name].default,
        )


def test_the_pages_sliders_are_settings_with_their_ranges(gpt: nextword.GPT) -> None:
    sliders = Views(gpt).model()["sliders"]
    assert [each["name"] for each in sliders] == [n for n, each in settings_of(Sampling).items() if each.slider]
    for each in sliders:
        assert each["doc"] == settings_of(Sampling)[each["name"]].doc
        assert each["minimum"] <= each["value"] <= each["maximum"]
        for end in (each["minimum"], each["maximum"]):
            Sampling(**{each["name"]: end})
    page = Path(nextword.__file__).parent / "web" / "studio" / "static" / "index.html"
    assert not any(f'id="{field.name}"' in page.read_text() for field in fields(Sampling)), "a second list"
