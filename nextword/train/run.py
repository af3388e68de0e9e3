"""A training run: from paths of text to a folder that any tool opens.

    RUN/  model.safetensors config.json tokenizer.json ...   Hugging Face's names; transformers opens them
          card.json           recipe, text, machine, and at the end the results
          log.jsonl           one line per logged step, measurement, sample and correction
          page.html           the same to look at
          corpus/train, corpus/heldout                        token shards, with the way back to the documents
          checkpoints/step-000512/                            all that going on needs, exact bits

`start` prepares a run, `resume` opens one; `Run.train` takes its steps and yields what happens as events. RUN appears
only when it can be resumed, and can be resumed from then on, whenever it was stopped or killed. A run of so many
steps that was interrupted, however often, gives the bits of the one that was not (on the CPU, with as many threads).
A run of so many minutes moves its end by its own speed; what it decides is in the log and in every checkpoint.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nextword.base.atomic import atomic_folder, atomic_write, disk_room_needed
from nextword.base.version import __version__
from nextword.corpus.formats import Undecodable
from nextword.errors import CorruptFile, InputError, SettingError
from nextword.optimize.evaluate import Evaluation, evaluate
from nextword.optimize.preflight import measure_peak, operations_per_step, peak_memory
from nextword.optimize.recipe import Recipe, from_json
from nextword.optimize.trainer import Diverged, Progress, State, Trainer
from nextword.parameters.checkpoints import Checkpoint, load_checkpoint, run_steps, save_checkpoint
from nextword.parameters.export import to_json, write_hf
from nextword.parameters.open import open_stored
from nextword.parameters.trained import Origin, form, read_origin
from nextword.predict.torch_engine import TorchEngine, pick_device
from nextword.sample.generation import Generation
from nextword.sample.settings import DEFAULT_SAMPLING
from nextword.trace.checkpoint import checkpoint_model
from nextword.train.finetune import origin_of, recipe_from, weights_of
from nextword.train.page.page import write_page
from nextword.train.plan import (
    MEASURING,
    Budget,
    Corpus,
    Doing,
    Facts,
    Forecast,
    Tell,
    open_corpus,
    plan,
    prepare,
)

QUICK_LIMIT = 8_192  # tokens of held-out text that are measured on the way
MEASUREMENTS = 20  # on the way
REGULAR = 1024  # steps between checkpoints, once they no longer double
_LEARNING = 2  # times as long as measuring, for each token
_NEAR = 0.05  # of the target: what is measured on the way may be off by so much
_WORTH_TELLING = 0.01  # of the bits per byte
_LOOKS = 25  # at the clock, in a run of so many minutes
_SLOWER = 3  # times as slow, at most, a look believes the machine to have become
_SAMPLE_EVERY = 30.0  # seconds, at least
_SAMPLE_TOKENS = 80
_FOUND_BETWEEN = ("heldout_bits_per_byte", "ends_after")  # two steps, in a line of the log


@dataclass(frozen=True)
class Stepped:
    """A step was taken, the `step`th (from 1); the run will end after `steps`, as far as is known.

    `share_of_peak`: of the arithmetic that the device does in large matrices (`nextword.optimize.preflight`).
    """

    step: int
    steps: int
    progress: Progress
    tokens_per_second: float
    share_of_peak: float

    @property
    def is_logged(self) -> bool:
        """Whether it is one of those that the log shows."""
        return self.step <= 100 or self.step % 10 == 0 or self.step == self.steps

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        speed = {
            "tokens_per_second": round(self.tokens_per_second, 1),
            "share_of_peak": round(self.share_of_peak, 4),
        }
        return {**asdict(self.progress), "step": self.step, **speed}


@dataclass(frozen=True)
class Measured:
    """A sample of the held-out text was measured after `step` steps."""

    step: int
    evaluation: Evaluation

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        return {
            "step": self.step,
            "heldout_bits_per_byte": self.evaluation.bits_per_byte,
            "heldout_tokens": self.evaluation.tokens,
        }


@dataclass(frozen=True)
class Weighed:
    """The root mean square of each tensor of weights after `step` steps."""

    step: int
    norms: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        return {"step": self.step, "norms": {name: float(f"{norm:.4g}") for name, norm in self.norms.items()}}


@dataclass(frozen=True)
class Sampled:
    """What the model wrote after `step` steps, begun with nothing but the token that begins a text."""

    step: int
    text: str

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        return {"step": self.step, "sample": {"prompt": "", "text": self.text}}


@dataclass(frozen=True)
class Corrected:
    """It was decided after `step` steps that the run ends after `steps` in all."""

    step: int
    steps: int

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        return {"step": self.step, "ends_after": self.steps}


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop after `step` of its `steps` steps; its state is saved."""

    step: int
    steps: int

    def record(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {"done": False, "step": self.step, "steps": self.steps}


@dataclass(frozen=True)
class Outdone:
    """At its end, after `step` steps, the model is worse on the held-out text than the checkpoint `better`, which takes
    `bits_per_byte` of it.
    """

    step: int
    better: int
    bits_per_byte: float

    def record(self) -> dict[str, Any]:
        """As the log shows it."""
        return {"step": self.step, "better": {"step": self.better, "bits_per_byte": self.bits_per_byte}}


@dataclass(frozen=True)
class Finished:
    """The run is over and its files are written; `results` as they stand in card.json."""

    results: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {"done": True, **self.results}


Event = Stepped | Measured | Weighed | Sampled | Corrected | Stopped | Outdone | Finished


def start(
    paths: Sequence[str],
    out: Path,
    budget: Budget,
    *,
    holdout: Sequence[str] = (),
    depth: int | None = None,
    model: str | None = None,
    errors: Undecodable = "skip",
    seed: int = 0,
    from_pairs: bool = False,
    device: str = "auto",
    began: float | None = None,
    tell: Tell = lambda line: None,
    doing: Doing = lambda what: None,
) -> Run:
    """Prepare a run in the new folder `out`. Its minutes count from `began` (time.monotonic()), or from now.

    model: what `nextword.open` opens; the run goes on from its weights, in its tokens. It has a depth of its own.
    from_pairs: a new model starts from all pairs of the text instead of random weights.
    errors: what becomes of text that is not UTF-8: "skip" it, "replace" its bytes, or read it as "latin-1".

    Raises InputError for a folder in use and for text that cannot be trained on, SettingError, NoDiskRoom, and what
    `open_stored` raises.
    """
    assert model is None or depth is None
    if depth is not None and depth < 1:
        raise SettingError(f"--depth must be at least 1 layer, not {depth}.")
    began = time.monotonic() if began is None else began
    device = pick_device(device)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose a new folder, or go on with a run by --resume {out}.")
    stored = None if model is None else open_stored(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        corpus, facts = prepare(paths, holdout, folder, tell, errors=errors, stored=stored, doing=doing)
        if corpus.heldout is None and budget.until is not None:
            raise InputError("--until needs held-out text to measure; give more text, or some with --holdout.")
        origin = recipe = weights = None
        if stored is not None:
            recipe = recipe_from(stored.architecture, budget, len(corpus.text.tokens), seed, device)
            origin = origin_of(stored, str(model), recipe, corpus, device, tell)
            weights = weights_of(stored)
        recipe, forecast = plan(
            corpus,
            budget,
            depth,
            seed,
            device,
            began,
            tell,
            recipe=recipe,
            from_pairs=from_pairs,
            floor=facts.get("floor_bits_per_byte"),
            doing=doing,
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
    """Make `folder`, which holds what `prepare` wrote, a run that can be resumed, before its first step.

    seconds: how long the run has taken so far. weights: those that it starts from; none: the recipe's own.
    """
    card = {
        "nextword": __version__,
        "seed": recipe.seed,
        "recipe": recipe.to_json(),
        "parameters": recipe.architecture.n_parameters,
        "budget": asdict(budget),
        "machine": _machine(device),
        "from": origin and asdict(origin),
        "corpus": facts,
        "forecast": asdict(forecast),
        "results": None,
    }
    atomic_write(folder / "card.json", to_json(card))
    numbers = {name: card[name] for name in ("recipe", "budget", "from")}
    numbers["hashes"] = corpus.stated_hashes()
    _save(folder, Trainer(recipe, corpus.text, weights=weights).state(), {**numbers, "seconds": seconds})


def resume(folder: Path, *, device: str = "auto") -> Run:
    """Go on with a run from its last checkpoint.

    Raises ModelNotFound if the folder is no run, InputError if the run is finished or its recipe, text or
    tokenizer was changed, CorruptFile.
    """
    return Run(folder, pick_device(device), time.monotonic())


class _StopAsked(Exception):
    """The run was asked to stop, between two steps; nothing is half done."""


class Run:
    """A run folder and its trainer. Made by `start` or `resume`; not to be shared between threads."""

    def __init__(self, folder: Path, device: str, began: float) -> None:
        self.folder = folder
        steps = run_steps(folder)
        checkpoint = load_checkpoint(folder, steps[-1])
        where = folder / "checkpoints"
        try:
            self._numbers = {name: checkpoint.numbers[name] for name in ("recipe", "budget", "hashes")}
            self._numbers["from"] = checkpoint.numbers.get("from")
            self.budget = Budget(**self._numbers["budget"])
            self._origin = read_origin(checkpoint.numbers)
            self._spent = float(checkpoint.numbers["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"The last checkpoint in {where} cannot be used ({error}); remove it.") from error
        self._card = _read_card(folder)
        if self._card["results"] is not None:
            raise InputError(f"The run in {folder} is finished; try: nextword generate --model {folder}")
        self._corpus = open_corpus(folder)
        self._check_unchanged()
        recipe = from_json(self._numbers["recipe"])
        state = _state(checkpoint)
        self.trainer = Trainer(recipe, self._corpus.text, self._corpus.heldout, state=state, device=device)
        self._began = began
        self._peak = measure_peak(recipe.dtype, self.trainer.device)
        self._pace: float | None = None  # seconds a step takes
        self._whole_pace: float | None = None  # the same with measurements and checkpoints
        self._token_pace: float | None = None  # seconds that measuring a token takes
        self._look = (began, 0)
        self._sampled = began  # when
        self._stop: Callable[[], bool] = lambda: False
        self._final: tuple[int, Evaluation] | None = None  # after which step the most was measured, and what
        self._bias = 1 - _NEAR  # what is measured on the way, to what would be measured at the end

    @property
    def recipe(self) -> Recipe:
        """What is trained, and how."""
        return self.trainer.recipe

    @property
    def origin(self) -> Origin | None:
        """The model that the run goes on from, if any."""
        return self._origin

    @property
    def is_talk(self) -> bool:
        """Whether there are conversations in its text."""
        return self._corpus.text.mask is not None

    @property
    def forecast(self) -> Mapping[str, Any]:
        """What was expected of the run before its first step: `nextword.train.plan.Forecast`."""
        return self._card.get("forecast") or {}

    def train(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Take the steps that are left; `stop` is asked after each, and while measuring, whether to save and end early.

        Raises Diverged, with the state before that step saved; and OutOfMemory and NoDiskRoom, after which the run
        can be resumed from its last checkpoint.
        """
        trainer = self.trainer
        self._stop = stop
        self._sweep()
        self._trim_log()
        self._look = (time.monotonic(), trainer.step)
        # Closing the log writes what a full disk has not taken, so that fails once more.
        with disk_room_needed(self.folder), (self.folder / "log.jsonl").open("ab") as log:

            def logged(event: Event) -> Event:
                if not isinstance(event, Stepped) or event.is_logged:
                    log.write(json.dumps(event.record()).encode() + b"\n")
                    log.flush()
                return event

            try:
                yield from map(logged, self._between_steps())
                for progress in trainer:
                    yield from map(logged, self._told(progress))
                    self._heed()
                    if _is_kept(trainer.step) and trainer.step < trainer.steps:
                        self._save()
                    yield from map(logged, self._between_steps())
                self._checkpoint()
                outdone = self._outdone()
                if outdone is not None:
                    yield logged(outdone)
                finished = self._finish(outdone)
            except _StopAsked:
                self._save()
                yield Stopped(trainer.step, trainer.steps)
                return
            except Diverged:
                self._save()
                raise
        yield finished

    def _heed(self) -> None:
        """Raises _StopAsked if the run was asked to stop."""
        if self._stop():
            raise _StopAsked

    def _told(self, progress: Progress) -> Iterator[Stepped | Weighed]:
        """What is to be told about the step just taken."""
        trainer = self.trainer
        self._pace = progress.seconds if self._pace is None else 0.9 * self._pace + 0.1 * progress.seconds
        recipe = trainer.recipe
        tokens_per_second = recipe.rows * recipe.architecture.context / self._pace
        share = operations_per_step(recipe) / self._pace / self._peak
        yield Stepped(trainer.step, trainer.steps, progress, tokens_per_second, share)
        if self._is_due() or _is_kept(trainer.step):
            yield Weighed(trainer.step, trainer.norms())

    def _is_due(self) -> bool:
        """Whether the held-out text is measured after this step."""
        return self.trainer.step % max(self.trainer.steps // MEASUREMENTS, 1) == 0

    def _between_steps(self) -> Iterator[Measured | Sampled | Corrected]:
        """Look how good the model is and whether it is on time, and decide where the run ends.

        Nothing of it is in the checkpoint after the last step: where the run is resumed, it is done there.
        """
        trainer = self.trainer
        if trainer.step >= trainer.steps or self._has_decided():
            return
        if trainer.step == 0:
            if trainer.recipe.from_pairs and trainer.heldout is not None:  # what is known may be enough
                yield from self._measured()
            return
        if self._is_due() and time.monotonic() - self._sampled > _SAMPLE_EVERY:
            yield Sampled(trainer.step, self._sample())
            self._sampled = time.monotonic()
        if self._is_due() and trainer.heldout is not None:
            yield from self._measured()
            if trainer.step >= trainer.steps:
                return
        if trainer.step % max(trainer.steps // _LOOKS, 1) == 0 and self._keep_time():
            yield Corrected(trainer.step, trainer.steps)

    def _has_decided(self) -> bool:
        """Whether what was found after this step is in its state."""
        corrections = self.trainer.corrections
        return bool(corrections) and corrections[-1].step == self.trainer.step

    def _measured(self) -> Iterator[Measured | Corrected]:
        """How good the model is, on a sample, and whether that is the end."""
        evaluation = self._evaluate(self._quick_limit())
        yield Measured(self.trainer.step, evaluation)
        if self._is_good_enough(evaluation):
            self.trainer.correct(self.trainer.step)
            yield Corrected(self.trainer.step, self.trainer.steps)

    def _is_good_enough(self, sample: Evaluation) -> bool:
        """Whether the whole held-out text takes as few bits as were asked for; measured where the sample is near it."""
        until, found = self.budget.until, sample.bits_per_byte
        if until is None or found * self._bias > until:
            return False
        whole = self._evaluate_whole().bits_per_byte
        self._bias = whole / found
        return whole <= until

    def _keep_time(self) -> bool:
        """Move the end of a run of so many minutes to where it is on time; whether it was moved."""
        trainer, (then, before) = self.trainer, self._look
        self._look = now, step = time.monotonic(), trainer.step
        left = self.budget.seconds_left(self._elapsed(), self._final_seconds())
        if left is None or step == before:
            return False
        pace = (now - then) / (step - before)
        if self._whole_pace is not None:  # a process that was halted for a while has lost time, but not its speed
            pace = 0.7 * self._whole_pace + 0.3 * min(pace, _SLOWER * self._whole_pace)
        self._whole_pace = pace
        steps = step + max(int(left / self._whole_pace), 0)
        if abs(steps - trainer.steps) <= 0.02 * (trainer.steps - step):
            return False
        trainer.correct(steps)
        return True

    def _sample(self) -> str:
        """A beginning, as the weights now write it."""
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

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _final_seconds(self) -> float:
        """How long the last measurement will take."""
        if self._token_pace is None or self.trainer.heldout is None:
            return 0.0
        n_tokens = min(self.budget.final_limit(self._token_pace), len(self.trainer.heldout.tokens))
        return self._token_pace * n_tokens

    def _quick_limit(self) -> int:
        """Tokens to measure on the way: fewer where that would take much of the time.

        In a run of so many steps that is not asked of the clock, so that the log is the same every time.
        """
        if self.budget.minutes is None:
            recipe = self.recipe
            learned = recipe.steps * recipe.rows * recipe.architecture.context
            return min(QUICK_LIMIT, max(1024, int(_LEARNING * MEASURING * learned / MEASUREMENTS)))
        if self._token_pace is None:
            return 1024
        return min(QUICK_LIMIT, max(1024, int(MEASURING * 60 * self.budget.minutes / MEASUREMENTS / self._token_pace)))

    def _evaluate_whole(self) -> Evaluation:
        """Measure as much as at the end, unless that was done after this step."""
        if self._final is None or self._final[0] != self.trainer.step:
            if self._token_pace is None:
                self._evaluate(1024)
            assert self._token_pace is not None
            self._final = self.trainer.step, self._evaluate(self.budget.final_limit(self._token_pace))
        return self._final[1]

    def _evaluate(self, limit: int) -> Evaluation:
        began = time.monotonic()
        evaluation = self.trainer.evaluate(limit, self._heed)
        self._token_pace = (time.monotonic() - began) / evaluation.tokens
        return evaluation

    def _save(self) -> None:
        self._checkpoint()
        write_page(self.folder)

    def _checkpoint(self) -> None:
        _save(self.folder, self.trainer.state(), {**self._numbers, "seconds": self._elapsed()})

    def _finish(self, outdone: Outdone | None) -> Finished:
        """Measure, and write what other tools open; a card with results is written last and ends the run."""
        trainer = self.trainer
        evaluation = None
        if trainer.heldout is not None:
            evaluation = self._evaluate_whole()
        trained, tokenizer = trainer.recipe.architecture, self._corpus.tokenizer
        tokens = trainer.step * trainer.recipe.rows * trained.context
        family, architecture, stop_ids = form(self._origin, trained, tokenizer.eos_ids)
        weights = {name: tensor.numpy() for name, tensor in trainer.state().weights.items()}
        write_hf(self.folder, family, architecture, weights, tokenizer, stop_ids)
        seconds = self._elapsed()
        results = {
            "bits_per_byte": evaluation and evaluation.bits_per_byte,
            "heldout_tokens": evaluation and evaluation.tokens,
            "better": outdone and outdone.record()["better"],
            "steps": trainer.step,
            "tokens": tokens,
            "seconds": seconds,  # since the command began, reading the text included
            "memory_bytes": peak_memory(str(trainer.device)),
            "tokens_per_second": tokens / seconds,
            "corrections": [asdict(each) for each in trainer.corrections],
        }
        atomic_write(self.folder / "card.json", to_json({**self._card, "results": results}))
        write_page(self.folder)
        return Finished(results)

    def _outdone(self) -> Outdone | None:
        """Whether a checkpoint was better, looked for where what was measured on the way lets one expect it."""
        if self.trainer.heldout is None:
            return None
        end = self._evaluate_whole()
        lines = (self.folder / "log.jsonl").read_bytes().splitlines()
        records = [record for record in map(json.loads, lines) if "heldout_bits_per_byte" in record]
        best = min(records, key=lambda record: record["heldout_bits_per_byte"], default=None)
        if best is None or not _is_clearly_less(best["heldout_bits_per_byte"], end):
            return None
        stored = [step for step in run_steps(self.folder) if step < self.trainer.step]
        before = [step for step in stored if step <= best["step"]][-1:]
        after = [step for step in stored if step > best["step"]][:1]
        bits, step = min((self._bits_at(step, end.tokens), step) for step in before + after)
        return Outdone(self.trainer.step, step, bits) if _is_clearly_less(bits, end) else None

    def _bits_at(self, step: int, limit: int) -> float:
        """Bits per byte of what is held out, after a step that left a checkpoint."""
        heldout = self._corpus.heldout
        assert heldout is not None
        model = checkpoint_model(self.folder, step).to(self.trainer.device)
        return evaluate(model, heldout, limit, self._heed).bits_per_byte

    def _check_unchanged(self) -> None:
        """Raises InputError unless recipe, text and tokenizer are those that the run began with."""
        found = {**self._corpus.hashes(), "recipe": self._card["recipe"]}
        wanted = {**self._numbers["hashes"], "recipe": self._numbers["recipe"]}
        changed = [name for name in wanted if wanted[name] != found.get(name)]
        if changed:
            raise InputError(
                f"The {changed[0]} of {self.folder} is no longer what the run began with; restore it, or start anew."
            )

    def _sweep(self) -> None:
        """Remove what a process that was killed had half written."""
        for folder in (self.folder, self.folder / "checkpoints"):
            for path in folder.glob(".*.tmp"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _trim_log(self) -> None:
        """Drop the lines about what will be done again: steps after the checkpoint, and what follows on its own."""
        path = self.folder / "log.jsonl"
        kept = []
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            with suppress(ValueError, TypeError, KeyError):  # the last line of a killed run may be half a line
                if line.endswith(b"\n") and self._stays(json.loads(line)):
                    kept.append(line)
        if self.trainer.step:
            kept.append(json.dumps({"step": self.trainer.step, "resumed": True}).encode() + b"\n")
        atomic_write(path, b"".join(kept))

    def _stays(self, record: Mapping[str, Any]) -> bool:
        """Whether a line of the log tells of what will not be done again."""
        trainer = self.trainer
        if "better" in record:
            return False
        if record["step"] < trainer.step or trainer.step >= trainer.steps or self._has_decided():
            return bool(record["step"] <= trainer.step)
        return record["step"] == trainer.step and record.keys().isdisjoint(_FOUND_BETWEEN)


def _is_clearly_less(bits: float, end: Evaluation) -> bool:
    """So much that it is worth telling; and what is measured on the way is a sample, which can be easier."""
    return bits < (1 - _WORTH_TELLING) * end.bits_per_byte


def _is_kept(step: int) -> bool:
    """Whether there is a checkpoint after this step."""
    return step & (step - 1) == 0 or step % REGULAR == 0


def _save(folder: Path, state: State, numbers: Mapping[str, Any]) -> None:
    parts = {"weights": state.weights, "optimizer": state.optimizer}
    tensors = {f"{part}.{name}": tensor.numpy() for part, of in parts.items() for name, tensor in of.items()}
    save_checkpoint(folder, state.numbers["step"], Checkpoint(tensors, {**numbers, **state.numbers}))


def _state(checkpoint: Checkpoint) -> State:
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "optimizer": {}}
    for name, array in checkpoint.tensors.items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = torch.from_numpy(array)
    numbers = {name: checkpoint.numbers.get(name) for name in ("step", "corrections")}
    return State(parts["weights"], parts["optimizer"], numbers)


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_bytes())
        if not card.keys() >= {"recipe", "results"}:
            raise ValueError("it holds no recipe")
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{folder / 'card.json'} cannot be read ({error}); restore it.") from error
    return card


def _machine(device: str) -> dict[str, Any]:
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
