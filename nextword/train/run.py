"""A training run: from paths of text to a folder that any tool opens (`nextword.parameters.run_folder`).

`start` prepares a run, `resume` opens one; `Run.train` takes its steps and yields what happens as events. The folder
appears only when it can be resumed, and can be resumed from then on, whenever the run was stopped or killed. A run of a
number of steps that was interrupted, however often, gives the bits of the one that was not (on the CPU, with the same
number of threads). A run of a number of minutes moves its end by its own speed; what it decides is in the log and in
every checkpoint.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from nextword.base.atomic import atomic_folder
from nextword.base.callbacks import OnNote, OnProgress, ignore
from nextword.base.version import __version__
from nextword.corpus.undecodable import Undecodable
from nextword.errors import CorruptFile, Diverged, InputError, SettingError
from nextword.optimize.preflight import measure_peak, operations_per_step, peak_memory
from nextword.optimize.recipe import Init, Recipe, from_json
from nextword.optimize.trainer import Progress, State, Trainer
from nextword.parameters.checkpoints import Checkpoint
from nextword.parameters.export import write_hf
from nextword.parameters.run_folder import RunFolder, open_named
from nextword.parameters.trained import Origin, form, read_origin
from nextword.predict.torch_engine import TorchEngine, pick_device
from nextword.sample.generation import Generation
from nextword.sample.settings import DEFAULT_SAMPLING
from nextword.train.clock import MEASUREMENTS, Clock
from nextword.train.events import (
    Corrected,
    EarlierWasBetter,
    Event,
    Finished,
    Measured,
    Sampled,
    Stepped,
    Stopped,
    WeightNorms,
)
from nextword.train.finetune import origin_of, recipe_from, weights_of
from nextword.train.log import open_log, trim_log
from nextword.train.measure import Measurements
from nextword.train.page.page import write_page
from nextword.train.plan import Budget, Forecast, plan
from nextword.train.prepare import Corpus, Facts, open_corpus, prepare

REGULAR = 1024  # steps: between checkpoints, once these no longer double
_LOOKS = 25  # looks: at the clock, in a run of a number of minutes
_SAMPLE_TOKENS = 80  # tokens: of a sample


def start(
    paths: Sequence[str],
    out: Path | str,
    budget: Budget,
    *,
    holdout: Sequence[str] = (),
    depth: int | None = None,
    model: str | None = None,
    errors: Undecodable = "skip",
    seed: int = 0,
    init: Init = "random",
    device: str = "auto",
    began: float | None = None,
    on_note: OnNote = ignore,
    on_progress: OnProgress = ignore,
) -> Run:
    """Prepare a new run.

    Args:
        paths: Files and folders of text, or what else `nextword.corpus.documents.read_documents` reads.
        out: The new folder of the run.
        budget: How long to train.
        holdout: Paths of the text to measure on; none: about a fiftieth of the documents is held out.
        depth: Number of layers of a new model; None: as many as train well in the time.
        model: What `nextword.open` opens: the run goes on from its weights, in its tokens; None: a new model.
        errors: What becomes of text that is not UTF-8: "skip" it, "replace" its bytes, or read it as "latin-1".
        seed: Of the initial weights and of the order of the data.
        init: What the weights of a new model start from: "random" numbers, or the text's "bigrams".
        device: To train on; "auto": a CUDA device if there is one.
        began: time.monotonic() from which minutes count; None: now.
        on_note: Called with what was found and planned, in sentences.
        on_progress: Called with what is being done.

    Raises:
        InputError: The folder is in use, or the text cannot be trained on.
        SettingError: A setting cannot be used.
        NoDiskRoom: The disk is full.
        ModelNotFound, CorruptFile, UnsupportedModel, TokenizerError: The model cannot be opened.
    """
    assert model is None or depth is None
    if isinstance(paths, str):
        raise InputError(f"Give the paths as a list: [{paths!r:.60}].")
    if init not in get_args(Init):
        raise SettingError(f"init must be {' or '.join(get_args(Init))}, not {init!r:.40}.")
    if errors not in get_args(Undecodable):
        raise SettingError(f"errors must be {', '.join(get_args(Undecodable))}, not {errors!r:.40}.")
    out = Path(out)
    if depth is not None and depth < 1:
        raise SettingError(f"--depth must be at least 1 layer, not {depth}.")
    began = time.monotonic() if began is None else began
    device = pick_device(device)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose a new folder, or go on with a run by --resume {out}.")
    stored = None if model is None else open_named(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        corpus, facts = prepare(paths, holdout, folder, on_note, errors=errors, stored=stored, on_progress=on_progress)
        if corpus.heldout is None and budget.until is not None:
            raise InputError("--until needs held-out text to measure; give more text, or some with --holdout.")
        origin = recipe = weights = None
        if stored is not None:
            recipe = recipe_from(stored.architecture, budget, len(corpus.text.tokens), seed, device)
            origin = origin_of(stored, str(model), recipe, corpus, device, on_note)
            weights = weights_of(stored)
        floor = facts.get("floor_bits_per_byte")
        recipe, forecast = plan(
            corpus,
            budget,
            depth,
            seed,
            device,
            began,
            on_note,
            recipe=recipe,
            init=init,
            floor=floor,
            on_progress=on_progress,
        )
        seconds = time.monotonic() - began
        begin(folder, recipe, budget, corpus, facts, forecast, seconds, device, origin=origin, weights=weights)
        if out.exists():
            out.rmdir()  # it is empty; not every system lets a folder be renamed to it
    return Run(out, device, began + seconds)


def begin(
    folder: Path,
    recipe: Recipe,
    budget: Budget,
    corpus: Corpus,
    facts: Facts,
    forecast: Forecast,
    seconds: float,
    device: str,
    *,
    origin: Origin | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Make a folder a run that can be resumed, before its first step.

    The first checkpoint is the state of a trainer that is made for that alone; `Run` reads it back and makes another.
    So what runs is what is stored, from the first step on.

    Args:
        folder: Holds what `prepare` wrote.
        recipe: What to train, and how.
        budget: How long to train.
        corpus: That `prepare` returned.
        facts: That `prepare` returned.
        forecast: What is expected of the run.
        seconds: That the run has taken so far.
        device: That the run will train on.
        origin: The model that the run goes on from, if any.
        weights: To start from; None: the recipe's own.
    """
    values = {"recipe": recipe.to_json(), "budget": asdict(budget), "from": origin and asdict(origin)}
    run = RunFolder(folder)
    run.write_card(
        {
            "nextword": __version__,
            "seed": recipe.seed,
            "parameters": recipe.architecture.n_parameters,
            **values,
            "machine": _machine(device),
            "corpus": facts,
            "forecast": asdict(forecast),
            "results": None,
        }
    )
    numbers = {**values, "hashes": corpus.stated_hashes(), "seconds": seconds}
    _save(run, Trainer(recipe, corpus.text, weights=weights).state(), numbers)


def resume(folder: Path | str, *, device: str = "auto") -> Run:
    """Go on with a run from its last checkpoint.

    Raises ModelNotFound if the folder is no run, InputError if the run is finished or its recipe, text or
    tokenizer was changed, CorruptFile.
    """
    return Run(Path(folder), pick_device(device), time.monotonic())


class _StopAsked(Exception):
    """The run was asked to stop, between two steps; nothing is half done."""


class Run:
    """A run folder and its trainer, made by `start` or `resume`. Not to be shared between threads.

    Args:
        folder: Of the run.
        device: To train on.
        began: time.monotonic() from which the seconds of this process count.
    """

    def __init__(self, folder: Path, device: str, began: float) -> None:
        self.folder = folder
        self._files = RunFolder(folder)
        where, checkpoint = self._files.last_checkpoint()
        try:
            self._numbers = {name: checkpoint.numbers[name] for name in ("recipe", "budget", "hashes")}
            self._numbers["from"] = checkpoint.numbers.get("from")
            budget = Budget(**self._numbers["budget"])
            self._origin = read_origin(checkpoint.numbers)
            spent = float(checkpoint.numbers["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"The checkpoint {where} cannot be used ({error}); remove it.") from error
        self._card = self._files.card()
        if self._card.results is not None:
            raise InputError(f"The run in {folder} is finished; try: nextword generate --model {folder}")
        self._corpus = open_corpus(folder)
        self._check_unchanged()
        recipe = from_json(self._numbers["recipe"])
        state = _state(checkpoint)
        self.trainer = Trainer(recipe, self._corpus.text, self._corpus.heldout, state=state, device=device)
        self.clock = Clock(budget, began, spent)
        self._peak = measure_peak(recipe.dtype, self.trainer.device)
        self._stop: Callable[[], bool] = lambda: False
        self._measurements = Measurements(self._files, self.trainer, self.clock, self._heed)

    def __repr__(self) -> str:
        return f"<Run {self.folder}: step {self.trainer.step:,} of {self.trainer.steps:,}>"

    @property
    def recipe(self) -> Recipe:
        """What is trained, and how."""
        return self.trainer.recipe

    @property
    def budget(self) -> Budget:
        """How long the run trains."""
        return self.clock.budget

    @property
    def origin(self) -> Origin | None:
        """The model that the run goes on from, if any."""
        return self._origin

    @property
    def is_talk(self) -> bool:
        """Whether there are conversations in its text."""
        return self._corpus.text.mask is not None and self._corpus.tokenizer.chat_template is not None

    @property
    def forecast(self) -> Mapping[str, Any]:
        """The forecast made before the first step: `nextword.train.plan.Forecast`."""
        return self._card.find("forecast") or {}

    def train(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Take the steps that are left.

        `stop` is called after each step, and while measuring; where it returns True, the run is saved and ends early.
        Raises Diverged, with the state before that step saved; and OutOfMemory and NoDiskRoom, after which the run
        can be resumed from its last checkpoint.
        """
        trainer = self.trainer
        self._stop = stop
        self._files.sweep()
        self._trim_log()
        self.clock.start(trainer.step)
        with open_log(self._files) as logged:
            try:
                yield from map(logged, self._between_steps())
                for progress in trainer:
                    yield from map(logged, self._after_step(progress))
                    self._heed()
                    if _is_kept(trainer.step) and trainer.step < trainer.steps:
                        self._save()
                    yield from map(logged, self._between_steps())
                self._checkpoint()
                better = self._measurements.find_better()
                if better is not None:
                    yield logged(better)
                finished = self._finish(better)
            except _StopAsked:
                self._save()
                yield Stopped(trainer.step, trainer.steps)
                return
            except Diverged:
                self._save()
                raise
        yield finished

    def _trim_log(self) -> None:
        trim_log(self._files, self.trainer, self._has_decided())

    def _heed(self) -> None:
        """Raises _StopAsked if the run was asked to stop."""
        if self._stop():
            raise _StopAsked

    def _after_step(self, progress: Progress) -> Iterator[Stepped | WeightNorms]:
        """The events of the step just taken."""
        trainer, recipe = self.trainer, self.recipe
        pace = self.clock.stepped(progress.seconds)
        mfu = operations_per_step(recipe) / pace / self._peak
        yield Stepped(trainer.step, trainer.steps, progress, _tokens(recipe) / pace, mfu)
        if self._is_due() or _is_kept(trainer.step):
            yield WeightNorms(trainer.step, trainer.norms())

    def _is_due(self) -> bool:
        """Whether the held-out text is measured after this step."""
        return self.trainer.step % max(self.trainer.steps // MEASUREMENTS, 1) == 0

    def _between_steps(self) -> Iterator[Measured | Sampled | Corrected]:
        """Measure the model, look whether the run is on time, and decide where it ends.

        Nothing of this is in the checkpoint after the last step: where the run is resumed, it is done there.
        """
        trainer = self.trainer
        if trainer.step >= trainer.steps or self._has_decided():
            return
        if trainer.step == 0:
            if trainer.recipe.init == "bigrams" and trainer.heldout is not None:  # what is known may be enough
                yield from self._measured()
            return
        if self._is_due() and self.clock.sample_is_due():
            yield Sampled(trainer.step, self._sample())
            self.clock.sampled()
        if self._is_due() and trainer.heldout is not None:
            yield from self._measured()
            if trainer.step >= trainer.steps:
                return
        if trainer.step % max(trainer.steps // _LOOKS, 1) == 0 and self._keep_time():
            yield Corrected(trainer.step, trainer.steps)

    def _has_decided(self) -> bool:
        """Whether the trainer's state holds a decision made after its last step."""
        corrections = self.trainer.corrections
        return bool(corrections) and corrections[-1].step == self.trainer.step

    def _measured(self) -> Iterator[Measured | Corrected]:
        """Measure the model on a sample of the held-out text, and end the run if that is good enough."""
        evaluation = self._measurements.sample()
        yield Measured(self.trainer.step, evaluation)
        if self._measurements.reaches_target(evaluation):
            self.trainer.correct(self.trainer.step)
            yield Corrected(self.trainer.step, self.trainer.steps)

    def _keep_time(self) -> bool:
        """Move the end of a run of a number of minutes to where it is on time. Returns whether it was moved."""
        trainer = self.trainer
        n_heldout = 0 if trainer.heldout is None else len(trainer.heldout.tokens)
        end = self.clock.end_on_time(trainer.step, trainer.steps, n_heldout)
        if end is not None:
            trainer.correct(end)
        return end is not None

    def _sample(self) -> str:
        """A text that the current weights write."""
        tokenizer = self._corpus.tokenizer
        session = TorchEngine.of(self.trainer.model()).open_session()
        settings: dict[str, Any] = {
            "sampling": DEFAULT_SAMPLING,
            "max_tokens": _SAMPLE_TOKENS,
            "stop_ids": tokenizer.eos_ids,
        }
        writing = Generation(session, tokenizer, [tokenizer.begin_id], seed=self.recipe.seed, **settings)
        text = ""
        for step in writing:
            self._heed()
            text += step.text
        return text

    def _save(self) -> None:
        self._checkpoint()
        write_page(self.folder)

    def _checkpoint(self) -> None:
        _save(self._files, self.trainer.state(), {**self._numbers, "seconds": self.clock.elapsed})

    def _finish(self, better: EarlierWasBetter | None) -> Finished:
        """Measure, and write what other tools open; a card with results is written last and ends the run."""
        trainer = self.trainer
        evaluation = None
        if trainer.heldout is not None:
            evaluation = self._measurements.whole()
        trained, tokenizer = trainer.recipe.architecture, self._corpus.tokenizer
        tokens = trainer.step * _tokens(trainer.recipe)
        family, architecture, stop_ids = form(self._origin, trained, tokenizer.eos_ids)
        weights = {name: tensor.numpy() for name, tensor in trainer.state().weights.items()}
        write_hf(self.folder, family, architecture, weights, tokenizer, stop_ids)
        seconds = self.clock.elapsed
        results = {
            "bits_per_byte": evaluation and evaluation.bits_per_byte,
            "heldout_tokens": evaluation and evaluation.tokens,
            "better": better and better.record()["better"],
            "steps": trainer.step,
            "tokens": tokens,
            "seconds": seconds,  # since the command began, reading the text included
            "memory_bytes": peak_memory(str(trainer.device)),
            "tokens_per_second": tokens / seconds,
            "corrections": [asdict(each) for each in trainer.corrections],
        }
        self._files.write_card({**self._card.values, "results": results})
        write_page(self.folder)
        return Finished(results)

    def _check_unchanged(self) -> None:
        """Raises InputError unless recipe, text and tokenizer are those that the run began with."""
        found = {**self._corpus.hashes(), "recipe": self._card.find("recipe")}
        wanted = {**self._numbers["hashes"], "recipe": self._numbers["recipe"]}
        changed = [name for name in wanted if wanted[name] != found.get(name)]
        if changed:
            raise InputError(
                f"The {changed[0]} of {self.folder} is no longer what the run began with; restore it, or start anew."
            )


def _is_kept(step: int) -> bool:
    """Whether there is a checkpoint after this step."""
    return step & (step - 1) == 0 or step % REGULAR == 0


def _tokens(recipe: Recipe) -> int:
    """Tokens of a step."""
    return recipe.batch_size * recipe.architecture.context


def _save(run: RunFolder, state: State, numbers: Mapping[str, Any]) -> None:
    parts = {"weights": state.weights, "optimizer": state.optimizer}
    tensors = {f"{part}.{name}": tensor.numpy() for part, of in parts.items() for name, tensor in of.items()}
    run.save(state.numbers["step"], Checkpoint(tensors, {**numbers, **state.numbers}))


def _state(checkpoint: Checkpoint) -> State:
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "optimizer": {}}
    for name, array in checkpoint.tensors.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = torch.from_numpy(array)
    numbers = {name: checkpoint.numbers.get(name) for name in ("step", "corrections")}
    return State(parts["weights"], parts["optimizer"], numbers)


def _machine(device: str) -> dict[str, Any]:
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
