"""The counterfactual of a passage: the run again, from a checkpoint before the passage was first read, without it.

"Without" means that no step reads any of the passage. Every token that holds a byte of it, wherever it stands, is
replaced by the token that begins a text, and does not count in the loss either. All other tokens keep their places, and
order, schedule and random numbers are those of the run, so the two runs differ by the passage alone: where nothing is
withheld, the weights are the same bit for bit (on the CPU, with the same number of threads).

The new run begins with the last checkpoint before the step that first read the passage; if need be with the first one,
the weights that the run started from.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.base.atomic import atomic_folder
from nextword.encode.shards import EncodedDocument, Shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError, UnknownToken
from nextword.parameters.checkpoints import Checkpoint
from nextword.parameters.run_folder import Card, RunFolder
from nextword.predict.torch_engine import checkpoint_model
from nextword.trace.recording import check_token
from nextword.trace.text.indexed import IndexedText, open_indexed, training_order
from nextword.trace.text.influence import influences
from nextword.train.plan import Budget
from nextword.train.run import Run, resume

_OTHERS = 20  # stretches of text: that a passage's influence is compared with


@dataclass(frozen=True)
class Withheld:
    """A passage that a run reads no more.

    Args:
        run: The folder of the run that read it.
        passage: The words.
        count: Occurrences in the text.
        exposures: Steps that read it.
        first_read: The first of these steps, from 0.
        resumed_after: Step of the checkpoint that the run goes back to.
    """

    run: str
    passage: str
    count: int
    exposures: int
    first_read: int
    resumed_after: int


@dataclass(frozen=True)
class Effect:
    """The probability of a token after a prompt, in the run and in the one without the passage."""

    with_passage: float
    without_passage: float

    @property
    def change(self) -> float:
        """The effect of the passage on log p, in nats; infinite where the token became impossible."""
        if not self.without_passage:
            return math.inf
        return math.log(self.with_passage / self.without_passage) if self.with_passage else -math.inf


@dataclass(frozen=True)
class Estimate:
    """The effect of the passage on a token after a prompt by cheap attributions, to be held against the `Effect`.

    Args:
        counted_with: Share of the occurrences of the longest end of the prompt that the text holds, after which the
            token follows.
        counted_without: The same in the text without the passage.
        below: The number of other stretches of the text whose influence is lower than that of the passage
            (nextword.trace.text.influence).
        others: The number of other stretches, which are as long as the passage.
    """

    counted_with: float
    counted_without: float
    below: int
    others: int


def start_without(run: Path, passage: str, out: Path, *, device: str = "auto") -> tuple[Run, Withheld]:
    """Begin the counterfactual: a new run, which is trained and resumed like any other.

    Args:
        run: The folder of the finished run.
        passage: The words to be withheld, as they stand in the text.
        out: The new folder.
        device: To train on; "auto": a CUDA device if there is one.

    Returns:
        The new run, and what it withholds.

    Raises:
        InputError: The text does not hold the passage, or no step read it; the run is not finished, its text was
            changed, or it has no checkpoint from before; or the folder is in use.
        ModelNotFound: The folder is no run.
        CorruptFile: A file of the run is damaged.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose a new folder.")
    order, taken = training_order(run)
    source = RunFolder(run)
    card = _finished_card(run)
    if card.recipe.init == "bigrams":
        raise InputError(
            f"{run} began with the bigrams of its whole text, so no checkpoint is from before a passage of it."
        )
    shards, tokenizer = source.text(), source.tokenizer()
    places = find_passage(shards, tokenizer, passage)
    if not places:
        raise InputError(f"The text of {run} does not hold {passage!r}; give words as they stand in it.")
    # A row may begin with the last token of the passage and predict only what follows.
    read = [each.step for place in places for each in order.exposures(range(place.start, place.stop + 1), taken)]
    if not read:
        raise InputError(f"{run} never read {passage!r}: its {taken:,} steps did not come to it.")
    before = max((step for step in source.steps() if step <= min(read)), default=None)
    if before is None:
        raise InputError(
            f"{run} has no checkpoint from before it read {passage!r} in step {min(read) + 1:,}; give the run that it "
            "was made from, or restore its first checkpoint."
        )
    withheld = Withheld(str(run), passage, len(places), len(set(read)), min(read), before)
    restart(run, out, before, places, {**card.values, "without": asdict(withheld)})
    return resume(out, device=device), withheld


def find_passage(shards: Shards, tokenizer: Tokenizer, passage: str) -> list[range]:
    """Find a passage in a text, byte for byte, however its tokens are cut.

    Args:
        shards: The text.
        tokenizer: That cut the text.
        passage: The words.

    Returns:
        For each occurrence the positions of all tokens that hold a byte of it.
    """
    spelled, wanted = _spellings(tokenizer, shards.vocab), passage.encode()
    found = []
    for begin, end in zip(shards.starts[:-1].tolist(), shards.starts[1:].tolist(), strict=True):
        parts = [spelled[id] for id in shards.tokens[begin:end].tolist()]
        text = b"".join(parts)
        at = text.find(wanted) if wanted else -1
        ends = np.cumsum([len(part) for part in parts]) if at >= 0 else np.empty(0, np.int64)
        while at >= 0:
            first = int(np.searchsorted(ends, at, side="right"))
            last = int(np.searchsorted(ends, at + len(wanted), side="left"))
            found.append(range(begin + first, begin + last + 1))
            at = text.find(wanted, at + len(wanted))
    return found


def restart(run: Path, out: Path, step: int, places: Sequence[range], card: dict[str, Any]) -> None:
    """Make a new run folder: the run as it was after a step, with its schedule to the end and tokens withheld.

    Args:
        run: The folder of the finished run.
        out: The new folder.
        step: Of the checkpoint to begin with.
        places: Positions of the tokens that are withheld.
        card: The values of the run's card, and what is to be remembered besides.

    Raises:
        InputError: The run's text was changed.
        CorruptFile: The checkpoint is damaged.
        NoDiskRoom: The disk is full.
    """
    source = RunFolder(run)
    results, shards = card["results"], source.text()
    tokenizer, checkpoint = source.tokenizer(), source.checkpoint(step)
    budget = asdict(Budget(steps=results["steps"]))
    if shards.content_hash() != checkpoint.numbers["hashes"]["text"]:
        raise InputError(f"The text of {run} is no longer what the run began with; restore it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        new = RunFolder(folder)
        tokenizer.save(folder)
        text = shards
        if places:
            documents = _documents(shards, places, tokenizer.begin_id)
            text = write_shards(new.text_path, documents, token_bytes=shards.token_bytes)
        else:
            shutil.copytree(shards.folder, new.text_path)
        if source.heldout_path.exists():
            shutil.copytree(source.heldout_path, new.heldout_path)
        numbers = {
            **checkpoint.numbers,
            "budget": budget,
            "corrections": results["corrections"],
            "hashes": {**checkpoint.numbers["hashes"], "text": text.hash},
            "seconds": 0.0,
        }
        new.save(step, Checkpoint(checkpoint.tensors, numbers))
        facts = {**card["corpus"], "train": {**card["corpus"]["train"], "bytes": text.bytes, "hash": text.hash}}
        changed = {"budget": budget, "corpus": facts, "forecast": None, "results": None}
        new.write_card({**card, **changed})
        if out.exists():
            out.rmdir()


def effect(run: Path, without: Path, prompt: Sequence[int], token: int) -> Effect:
    """Measure the effect of the passage on a token's probability, from the last checkpoints of both runs.

    Args:
        run: The folder of the run with the passage.
        without: The folder of the run without it.
        prompt: Ids.
        token: Id of the token after the prompt.

    Raises:
        ModelNotFound: A folder has no checkpoint.
        CorruptFile: A checkpoint is damaged.
        EmptyPrompt: There are no ids.
        ContextOverflow: There are too many ids.
        UnknownToken: An id is outside the vocabulary.
    """
    with_passage, without_passage = (_probability(folder, prompt, token) for folder in (run, without))
    return Effect(with_passage, without_passage)


def estimate(run: Path, without: Path, passage: str, prompt: Sequence[int], token: int) -> Estimate:
    """Estimate the effect without training: from the texts of both runs and the checkpoints of the first.

    Raises what `effect` and `nextword.trace.text.indexed.open_indexed` raise.

    Args:
        run: The folder of the run with the passage.
        without: The folder of the run without it.
        passage: The words.
        prompt: Ids.
        token: Id of the token after the prompt.
    """
    text = open_indexed(run)
    place = find_passage(text.shards, text.tokenizer, passage)[0]
    size = place.stop - place.start
    random = np.random.default_rng(0)
    begins = [place.start, *random.integers(1, max(len(text.shards.tokens) - size, 2), _OTHERS).tolist()]
    # The token before a stretch only serves to predict its first.
    stretches = [text.shards.tokens[max(begin - 1, 0) : begin + size].tolist() for begin in begins]
    models = (checkpoint_model(run, step) for step in RunFolder(run).steps())
    its, *theirs = influences(models, prompt, token, stretches)
    below = sum(bool(other < its) for other in theirs)
    return Estimate(_followed(text, prompt, token), _followed(open_indexed(without), prompt, token), below, len(theirs))


def _followed(text: IndexedText, prompt: Sequence[int], token: int) -> float:
    length = text.index.longest_suffix(prompt)
    following = text.index.next_counts(prompt[len(prompt) - length :])
    return following.of(token) / following.total


def _probability(run: Path, prompt: Sequence[int], token: int) -> float:
    model = checkpoint_model(run, RunFolder(run).run_steps()[-1])
    check_token(token, model.architecture)
    with torch.no_grad():
        return float(model(torch.tensor([list(prompt)]))[0, -1].double().softmax(-1)[token])


def _finished_card(run: Path) -> Card:
    card = RunFolder(run).card()
    if card.results is None:
        raise InputError(f"The run in {run} is not finished; go on with: nextword train --resume {run}")
    return card


def _documents(shards: Shards, places: Sequence[range], begin: int) -> Iterator[EncodedDocument]:
    """The documents without what is withheld."""
    is_withheld = np.zeros(len(shards.tokens), bool)
    for place in places:
        is_withheld[place.start : place.stop] = True
    for i in range(shards.n_documents):
        part = slice(int(shards.starts[i]), int(shards.starts[i + 1]))
        hidden = is_withheld[part]
        counts: npt.NDArray[np.uint8] = np.ones(len(hidden), np.uint8) if shards.mask is None else shards.mask[part]
        yield np.where(hidden, begin, shards.tokens[part]), np.where(hidden, 0, counts), shards.document(i)


def _spellings(tokenizer: Tokenizer, vocab: int) -> list[bytes]:
    """The text of every token; of special ones and unused ids, none."""

    def spelled(id: int) -> bytes:
        try:
            return b"" if id in tokenizer.special_ids else tokenizer.token_bytes(id)
        except UnknownToken:
            return b""

    return [spelled(id) for id in range(vocab)]
