"""The plan of a run: text, time and machine become a recipe and a forecast.

Promises: what is planned for a number of steps depends on the text and the machine alone, and what is planned for
minutes also on the speed of a few trial steps.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace

from nextword.base.callbacks import OnNote, OnProgress, ignore
from nextword.encode.shards import Shards
from nextword.errors import SettingError
from nextword.optimize.bigrams import BYTES_PER_BIGRAM
from nextword.optimize.dropout import dropout_for
from nextword.optimize.forecast import FADING, forecast_bits_per_byte
from nextword.optimize.preflight import (
    FEWEST_LAYERS,
    batch_size_for,
    measure_pace,
    n_layers_for,
    operations_per_step,
    pays_to_compile,
    peak_memory,
    pick_dtype,
    shape,
)
from nextword.optimize.recipe import Init, Recipe
from nextword.train.prepare import Corpus

FINAL_LIMIT = 262_144  # tokens: of held-out text that are measured at the end, at most
MEASURING = 0.05  # share of the time: for measuring on the way, at most
_FINAL_SHARE, _LEAST_FINAL = 0.04, 8192  # share of the time for measuring at the end; tokens, at least
_USUAL_DEPTH = 4  # layers: of a run of a number of steps
_USUAL_STEPS = 1000  # steps: of a recipe whose number of steps is not known yet
_TRIAL_SECONDS, _TRIAL_SHARE = 1.5, 0.01  # seconds and share of the time left: for a trial, at most
_WARMUP_FROM_BIGRAMS = 0.2  # share of the steps: full rates at once would shake the bigrams out of the weights again
_SAVING = 1.0  # seconds: kept for writing the model


@dataclass(frozen=True)
class Budget:
    """How long to train: for a number of steps or of minutes, and until a target is reached.

    Args:
        minutes: Of the whole run, reading the text and measuring included.
        steps: Of the trainer, instead of minutes.
        until: Bits per byte on held-out text at which the run ends early; None: it does not.

    Raises:
        SettingError: Both or neither of minutes and steps are given, or a number is not positive.
    """

    minutes: float | None = None
    steps: int | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingError("Say how long to train: --minutes or --steps, one of them.")
        for name, value in asdict(self).items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SettingError(f"--{name} must be a positive number, not {value}.")

    def seconds_left(self, elapsed: float, final_measurement: float) -> float | None:
        """Seconds for training, after `elapsed` seconds and before `final_measurement` seconds; None: no limit."""
        return None if self.minutes is None else 60 * self.minutes - elapsed - final_measurement - _SAVING

    def final_limit(self, token_seconds: float) -> int:
        """Tokens to measure at the end, where each takes `token_seconds`: many, but in little of the time."""
        if self.minutes is None:
            return FINAL_LIMIT
        return min(FINAL_LIMIT, max(_LEAST_FINAL, int(_FINAL_SHARE * 60 * self.minutes / token_seconds)))


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run.

    Args:
        steps: Of the trainer.
        bits_per_byte: On the held-out text at the end; None: nothing is known of it.
        seconds: Of the whole run.
        memory_bytes: Peak memory; None: the system does not tell.
    """

    steps: int
    bits_per_byte: float | None
    seconds: float
    memory_bytes: int | None


def plan(
    corpus: Corpus,
    budget: Budget,
    depth: int | None,
    seed: int,
    device: str,
    began: float,
    on_note: OnNote = ignore,
    *,
    recipe: Recipe | None = None,
    init: Init = "random",
    floor: float | None = None,
    on_progress: OnProgress = ignore,
) -> tuple[Recipe, Forecast]:
    """Plan a run.

    Args:
        corpus: The text to learn from.
        budget: How long to train.
        depth: Number of layers; None: as many as train well in the time.
        seed: Of the initial weights and of the order of the data.
        device: To train on.
        began: time.monotonic() from which minutes count.
        on_note: Called with the plan in sentences.
        recipe: Of a run that goes on from a model: only its steps are planned, and its bits per byte not forecast.
        init: What the weights of a new model start from.
        floor: Bits per byte that no model can get below, as far as is known.
        on_progress: Called with what is tried out.

    Returns:
        The recipe, and what to expect of it.

    Raises:
        InputError: The text is too short.
    """
    is_new = recipe is None
    if recipe is None:
        recipe, pace = _Fit(corpus.text, budget, seed, device, began, init, on_progress).best(depth)
    else:
        on_progress("Trying out how fast this machine trains the model.")
        pace = measure_pace(recipe, corpus.text, device, _TRIAL_SECONDS)
    token_pace = pace / _tokens_per_step(recipe) / 2  # of measuring: no backward pass
    final = min(budget.final_limit(token_pace), len(corpus.heldout.tokens)) if corpus.heldout else 0
    if budget.steps is None:
        left = budget.seconds_left(time.monotonic() - began, token_pace * final)
        assert left is not None
        if left < pace:
            on_note(
                f"The {budget.minutes:g} minutes are over before the first step; one is taken. Give more --minutes."
            )
        recipe = replace(recipe, steps=max(1, int(left / pace)))
    bits = _forecast_bits(corpus, recipe, budget.until, floor) if is_new else None
    seconds = time.monotonic() - began + recipe.steps * pace + token_pace * final
    if budget.minutes is None:  # else the end is moved to where it is on time
        seconds += MEASURING * recipe.steps * pace + _SAVING
    seconds = max(seconds, 60 * (budget.minutes or 0))
    forecast = Forecast(recipe.steps, bits, seconds, _forecast_memory(recipe, device))
    on_note(_describe_model(recipe))
    for line in _describe_plan(recipe, pace, len(corpus.text.tokens)):
        on_note(line)
    on_note(_describe_forecast(forecast, budget.until))
    return recipe, forecast


@dataclass(frozen=True)
class _Fit:
    """The search for a model that fits the time, by trials on this machine. The number of steps stays open."""

    text: Shards
    budget: Budget
    seed: int
    device: str
    began: float
    init: Init
    on_progress: OnProgress

    def best(self, depth: int | None) -> tuple[Recipe, float]:
        """The recipe of `depth` layers, or of as many as train well in the time, and the seconds of a step."""
        steps = self.budget.steps
        n_layers = depth or (FEWEST_LAYERS if steps is None else _USUAL_DEPTH)
        recipe, pace = self._try(n_layers)
        while depth is None and steps is None:
            operations = operations_per_step(recipe) / pace * self._seconds_left()
            better = n_layers_for(operations, self.text.vocab, len(self.text.tokens))
            if better <= n_layers:  # the deeper a model, the more of the machine's speed it uses, so this ends
                break
            n_layers = better
            recipe, pace = self._try(n_layers)
        if steps is None:
            recipe = self._with_dropout(recipe, self._seconds_left() / pace)
        if pays_to_compile(min(self._seconds_left(), pace * (steps or math.inf)), self.device):
            self.on_progress("Compiling the model.")
            recipe = replace(recipe, compiled=True)
            pace = self._pace_of(recipe)
        return recipe, pace

    def _try(self, n_layers: int) -> tuple[Recipe, float]:
        """The recipe of a model with this number of layers, and the seconds of a step."""
        self.on_progress(f"Trying out how fast this machine trains {n_layers} layers.")
        n_tokens, steps = len(self.text.tokens), self.budget.steps
        architecture, batch_size = shape(n_layers, self.text.vocab, n_tokens)
        batch_size = batch_size_for(self.device, architecture.context, batch_size, n_tokens)
        dtype = pick_dtype(self.device)
        recipe = Recipe(architecture, steps or _USUAL_STEPS, batch_size, seed=self.seed, dtype=dtype)
        if self.init == "bigrams":
            untied = replace(architecture, tied=False)
            recipe = replace(recipe, architecture=untied, init="bigrams", warmup=_WARMUP_FROM_BIGRAMS)
        recipe = self._with_dropout(recipe, steps or 0)
        return recipe, self._pace_of(recipe)

    def _pace_of(self, recipe: Recipe) -> float:
        seconds = min(_TRIAL_SECONDS, _TRIAL_SHARE * self._seconds_left())
        return measure_pace(recipe, self.text, self.device, seconds)

    def _with_dropout(self, recipe: Recipe, steps: float) -> Recipe:
        epochs = steps * _tokens_per_step(recipe) / len(self.text.tokens)
        return replace(recipe, dropout=dropout_for(epochs))

    def _seconds_left(self) -> float:
        left = self.budget.seconds_left(time.monotonic() - self.began, 0.0)
        return math.inf if left is None else max(left, 0.0)


def _tokens_per_step(recipe: Recipe) -> int:
    return recipe.batch_size * recipe.architecture.context


def _forecast_bits(corpus: Corpus, recipe: Recipe, until: float | None, floor: float | None) -> float | None:
    if corpus.heldout is None:
        return None
    read = recipe.steps * _tokens_per_step(recipe)
    return forecast_bits_per_byte(corpus.text, corpus.heldout, read, init=recipe.init, until=until, floor=floor)


def _forecast_memory(recipe: Recipe, device: str) -> int | None:
    """Bytes: what the trials needed, and what initialization needs besides."""
    memory = peak_memory(device)
    if memory is not None and recipe.init == "bigrams" and device == "cpu":
        memory += BYTES_PER_BIGRAM * recipe.architecture.vocab**2
    return memory


def _describe_model(recipe: Recipe) -> str:
    a = recipe.architecture
    return (
        f"Model: {a.n_parameters:,} parameters, {a.n_layers} layers of {a.width}, {a.vocab:,} tokens in "
        f"its vocabulary, {a.context} in its context."
    )


def _describe_plan(recipe: Recipe, pace: float, n_tokens: int) -> list[str]:
    seen = recipe.steps * _tokens_per_step(recipe)
    dropout = f"; dropout of {recipe.dropout:.0%}, as it is read so often" if recipe.dropout else ""
    lines = [
        f"Plan: {recipe.steps:,} steps of {recipe.batch_size} x {recipe.architecture.context} tokens, {pace:.3f} s "
        f"each; {seen:,} tokens, {seen / n_tokens:.1f} times the text of {n_tokens:,}{dropout}."
    ]
    if seen > (1 + FADING) * n_tokens:
        lines.append(
            f"After about {1 + FADING:.0f} readings little more is learned from a text, but it may be by heart; "
            "give more of it."
        )
    return lines


def _describe_forecast(forecast: Forecast, until: float | None) -> str:
    parts = [f"{forecast.seconds:,.0f} s in all" if until is None else f"at most {forecast.seconds:,.0f} s in all"]
    if forecast.bits_per_byte is not None:
        missed = until is not None and forecast.bits_per_byte > until
        parts.append(
            f"{forecast.bits_per_byte:.2f} bits per byte on held-out text"
            + (f" (the {until:g} of --until would take longer)" if missed else "")
        )
    if forecast.memory_bytes is not None:
        parts.append(f"{forecast.memory_bytes / 1e9:.1f} GB of memory")
    return f"Forecast: {', '.join(parts)}."
