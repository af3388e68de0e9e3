"""The run folder: the only module that knows where in it everything lies, and what its files are called.

    RUN/card.json                        recipe, text, machine, and at the end the results
    RUN/log.jsonl                        a record for each logged step, measurement, sample and correction
    RUN/page.html                        the same to look at
    RUN/checkpoints/step-000512/         all that going on needs, exact bits (`nextword.parameters.checkpoints`)
    RUN/tokenizer.json
    RUN/corpus/train, heldout            token shards (`nextword.encode.shards`)
    RUN/corpus/index                     of the training text (`nextword.corpus.index`)
    RUN/model.safetensors config.json    the model, when the run is over, as Hugging Face's tools open it

What `nextword index FILES --out DIR` makes is the part of it that is a text: tokenizer.json and corpus/.

Promises: what was written in an earlier format is read in today's words (`FORMAT`); a line of the log that was half
written is passed over; at a run's last step the probabilities of its checkpoint are those of the run's own model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextword.base.atomic import atomic_write
from nextword.encode.shards import Shards, open_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError, ModelNotFound
from nextword.model.architecture import tensor_shapes
from nextword.optimize.recipe import Recipe, from_json
from nextword.parameters.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from nextword.parameters.export import to_json
from nextword.parameters.open import Stored, open_stored
from nextword.parameters.stored import StoredTensor
from nextword.parameters.trained import form, read_origin

FORMAT = 2  # of card.json and state.json; 1 is what bears no number
# What format 1 called the keys of a recipe and of a record of the log.
_RECIPE_KEYS = {"rows": "batch_size", "matrix_rate": "muon_lr", "other_rate": "adam_lr"}
_RECIPE_KEYS |= {"first_momentum": "momentum_start", "from_pairs": "init"}
_RECORD_KEYS = {"level": "lr_scale", "share_of_peak": "mfu"}

_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Card:
    """What card.json says, as `values` in today's words. Of a run that is just being looked at, any may be missing.

    `path` is that of the file, for errors.
    """

    path: Path
    values: Mapping[str, Any]

    def find(self, *keys: str) -> Any:
        """The value under these keys, one below the other, or None."""
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def recipe(self) -> Recipe:
        """What was trained, and how. Raises CorruptFile."""
        try:
            return from_json(self.values["recipe"])
        except (KeyError, InputError) as error:
            raise _unreadable(self.path, error) from error

    @property
    def results(self) -> Mapping[str, Any] | None:
        """What came of the run; None before its end."""
        found = self.find("results")
        return found if isinstance(found, Mapping) and found else None


@dataclass(frozen=True)
class RunFolder:
    """A run folder at `path`; nothing is read until it is asked for, and nothing has to be there."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # a text will do

    @staticmethod
    def of_model(path: Path) -> RunFolder | None:
        """The run folder that an opened model lies in, as its own model or as a checkpoint; None for another model."""
        run = RunFolder(path.parent.parent if _STEP.fullmatch(path.name) else path)
        return run if run.has_text else None

    @property
    def log_path(self) -> Path:
        """log.jsonl."""
        return self.path / "log.jsonl"

    @property
    def page_path(self) -> Path:
        """page.html."""
        return self.path / "page.html"

    @property
    def text_path(self) -> Path:
        """The folder of the training text's shards."""
        return self.path / "corpus" / "train"

    @property
    def heldout_path(self) -> Path:
        """The folder of the held-out text's shards, if any text is held out."""
        return self.path / "corpus" / "heldout"

    @property
    def index_path(self) -> Path:
        """The folder of the training text's index."""
        return self.path / "corpus" / "index"

    @property
    def has_text(self) -> bool:
        """Whether the training text is here."""
        return self.text_path.is_dir()

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return self._card_path.is_file() and self._checkpoints.is_dir()

    @property
    def made_at(self) -> float:
        """When the card was written last, in seconds since the epoch. Raises OSError."""
        return self._card_path.stat().st_ctime

    @property
    def has_card(self) -> bool:
        """Whether there is a card, so that this is more than a text."""
        return self._card_path.exists()

    def text(self) -> Shards:
        """The training text. Raises ModelNotFound where there is none, CorruptFile."""
        if not self.has_text:
            raise ModelNotFound(
                f"{self.path} holds no text to trace words back to; give the folder of a run, or make one with: "
                "nextword index FILES --model M --out DIR."
            )
        return open_shards(self.text_path)

    def heldout(self) -> Shards | None:
        """The held-out text, if there is any. Raises CorruptFile."""
        return open_shards(self.heldout_path) if self.heldout_path.exists() else None

    def tokenizer(self) -> Tokenizer:
        """What cut the text. Raises ModelNotFound, TokenizerError."""
        return Tokenizer.from_folder(self.path)

    def card(self) -> Card:
        """Read card.json. Raises CorruptFile if it is missing or damaged."""
        path = self._card_path
        try:
            values = json.loads(path.read_bytes())
            if not isinstance(values, dict):
                raise ValueError("it is no object")
            return Card(path, _in_todays_words(values))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error

    def write_card(self, values: Mapping[str, Any]) -> None:
        """Write card.json at once. Raises NoDiskRoom."""
        atomic_write(self._card_path, to_json({"format": FORMAT, **values}))

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of log.jsonl in order. A line that is no whole record, such as one half written, is left out."""
        if not self.log_path.exists():
            return
        with self.log_path.open("rb") as lines:
            for line in lines:
                with suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield _renamed(record, _RECORD_KEYS)

    def write_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace log.jsonl by these records at once. Raises NoDiskRoom."""
        atomic_write(self.log_path, b"".join(json.dumps(record).encode() + b"\n" for record in records))

    def steps(self) -> list[int]:
        """The steps after which a checkpoint was saved, in order."""
        found = (_STEP.fullmatch(path.name) for path in self._checkpoints.glob("step-*"))
        return sorted(int(match.group(1)) for match in found if match)

    def run_steps(self) -> list[int]:
        """The same, of a run. Raises ModelNotFound for a folder without any checkpoint."""
        steps = self.steps()
        if not steps:
            raise self.no_run()
        return steps

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Write the checkpoint after `step` steps; one that is already there holds the same, and is kept.

        Raises NoDiskRoom, and then leaves nothing of it behind.
        """
        if not self._checkpoint_path(step).exists():
            numbers = {"format": FORMAT, **checkpoint.numbers}
            write_checkpoint(self._checkpoint_path(step), Checkpoint(checkpoint.tensors, numbers))

    def checkpoint(self, step: int) -> Checkpoint:
        """Read the checkpoint after `step` steps. Raises CorruptFile if it is missing or damaged."""
        folder = self._checkpoint_path(step)
        found = read_checkpoint(folder)
        try:
            return Checkpoint(found.tensors, _in_todays_words(found.numbers))
        except ValueError as error:
            raise _unreadable(folder, error) from error

    def last_checkpoint(self) -> tuple[Path, Checkpoint]:
        """The folder and the content of the last checkpoint. Raises ModelNotFound, CorruptFile."""
        step = self.run_steps()[-1]
        return self._checkpoint_path(step), self.checkpoint(step)

    def stored_checkpoint(self, step: int) -> Stored:
        """The model that the run was after `step` steps, as if it were stored.

        Raises ModelNotFound for a folder without checkpoints, InputError for a step without one, CorruptFile,
        TokenizerError.
        """
        if step not in (steps := self.run_steps()):
            known = ", ".join(map(str, steps))
            raise InputError(f"{self.path} has no checkpoint after {step} steps; it has them after {known}.")
        checkpoint, tokenizer = self.checkpoint(step), self.tokenizer()
        try:
            trained = from_json(checkpoint.numbers["recipe"]).architecture
            family, architecture, stop_ids = form(read_origin(checkpoint.numbers), trained, tokenizer.eos_ids)
            tensors = {
                name: StoredTensor.of(checkpoint.tensors[f"weights.{name}"].reshape(shape))
                for name, shape in tensor_shapes(architecture).items()
            }
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise CorruptFile(
                f"The checkpoint after {step} steps in {self.path} does not hold its model ({error}); remove it."
            ) from error
        return Stored(self._checkpoint_path(step), family, architecture, tensors, tokenizer, stop_ids)

    def sweep(self) -> None:
        """Remove what a process that was killed had half written."""
        for folder in (self.path, self._checkpoints):
            for path in folder.glob(".*.tmp"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    @property
    def _card_path(self) -> Path:
        return self.path / "card.json"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint_path(self, step: int) -> Path:
        return self._checkpoints / f"step-{step:06d}"

    def no_run(self) -> ModelNotFound:
        """The error of who needs the folder of a run."""
        return ModelNotFound(f"{self.path} is not the folder of a run; give one that `nextword train` made.")


def checkpoint_named(name: str) -> tuple[str, int] | None:
    """The run and the step that RUN@STEP names; None for another name.

    >>> checkpoint_named("runs/tales@64")
    ('runs/tales', 64)
    >>> checkpoint_named("owner/model")
    """
    run, _, step = name.rpartition("@")
    return (run, int(step)) if run and step.isascii() and step.isdecimal() and len(step) < 19 else None


def run_named(name: str | Path) -> tuple[Path, int | None]:
    """The folder that RUN or RUN@STEP names, and the step, if it names one; what is there by the whole name is RUN."""
    named = checkpoint_named(str(name))
    if named is None or Path(name).exists():
        return Path(name), None
    return Path(named[0]), named[1]


def open_named(model: str | Path) -> Stored:
    """Open what a user names: all that `nextword.parameters.open.open_stored` opens, or RUN@STEP.

    Raises what `open_stored` and `RunFolder.stored_checkpoint` raise.
    """
    path, step = run_named(model)
    if step is None:
        return open_stored(model)
    with suppress(RuntimeError):  # a home folder of nobody
        path = path.expanduser()
    return RunFolder(path).stored_checkpoint(step)


def _in_todays_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of card.json or state.json without its format. Raises ValueError for a format that is not known."""
    today = dict(values)
    found = today.pop("format", 1)
    if found not in range(1, FORMAT + 1):
        raise ValueError(f"its format is {found!r}, and this nextword knows those up to {FORMAT}")
    recipe = today.get("recipe")
    if found == 1 and isinstance(recipe, Mapping):
        today["recipe"] = _renamed(recipe, _RECIPE_KEYS)
        if "from_pairs" in recipe:
            today["recipe"]["init"] = "bigrams" if recipe["from_pairs"] else "random"
    return today


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _unreadable(path: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{path} cannot be read ({error}); restore it.")
