"""What the studio's page may ask: each question with its bounds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, create_model

from nextword.base.settings import settings_of
from nextword.sample.settings import Sampling
from nextword.trace.settings import EXPLAIN
from nextword.web.settings import sampling_fields

PROMPT_CHARACTERS = 100_000  # characters: of a prompt
TEXT_CHARACTERS = 1_000_000  # characters: of a text to learn from
SLIDERS = {name: each.slider for name, each in settings_of(Sampling).items() if each.slider is not None}


class ModelRequest(BaseModel):
    """Which model is meant: its name, RUN@STEP for a checkpoint, None for the first."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(default=None, max_length=200)


class TextRequest(ModelRequest):
    """What every question about a text holds: the text so far, and which model reads it."""

    prompt: str = Field(max_length=PROMPT_CHARACTERS)
    chosen: list[int] = Field(default=[], max_length=PROMPT_CHARACTERS)


_SamplingFields = create_model("SamplingFields", __base__=TextRequest, **sampling_fields(SLIDERS))


class DrawRequest(_SamplingFields):  # type: ignore[misc, valid-type]  # made from the list of settings
    """Text, settings, and what the draw depends on. rows: the number of tokens reported one by one."""

    seed: int = Field(default=0, ge=0, lt=1 << 64)
    number: float | None = Field(default=None, ge=0, lt=1)
    rows: int = Field(default=10, ge=1, le=200)

    def sampling(self) -> Sampling:
        """Raises SettingError."""
        return Sampling(**{name: getattr(self, name) for name in SLIDERS})


class WhyRequest(TextRequest):
    """token, contrast: ids; None for the most probable token and for what the model expected."""

    token: int | None = None
    contrast: int | None = None
    count: int = Field(default=EXPLAIN.count, ge=1, le=100)


class AblationRequest(DrawRequest):
    """The next token with one head ablated."""

    layer: int = Field(ge=0)
    head: int = Field(ge=0)


class ComparisonRequest(BaseModel):
    """Two texts, or two models, with settings of their own."""

    model_config = ConfigDict(extra="ignore")

    left: DrawRequest
    right: DrawRequest


class DifferenceRequest(ComparisonRequest):
    """What two models make of the left text, or one of both, part by part. token: an id."""

    token: int = Field(ge=0)
    count: int = Field(default=10, ge=1, le=100)


class RunRequest(BaseModel):
    """A run, by the name under which it was listed."""

    run: str = Field(max_length=200)


class WordRequest(RunRequest):
    """How probable a continuation was after a prompt, at each checkpoint of a run."""

    prompt: str = Field(max_length=PROMPT_CHARACTERS)
    continuation: str = Field(max_length=200)


class TrainingRequest(BaseModel):
    """A new run, on pasted text or on a known-truth language."""

    minutes: float = Field(ge=0.2, le=60)
    text: str | None = Field(default=None, max_length=TEXT_CHARACTERS)
    world: str | None = Field(default=None, max_length=40)
