"""What a passage did to a model: the run again, from before it was first read, without it.

"Without" means that no step reads any of it. Every token that holds a byte of the passage, wherever it stands, is
replaced by the token that begins a text, and is not predicted either. All other tokens keep their places, and order,
schedule and chance are those of the run, so the two runs differ by the passage alone: where nothing is withheld, the
weights are the same bit for bit (on the CPU, with as many threads).

The new run begins with the run's last checkpoint that no step had read the passage before; if need be with the first,
the weights it started from.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextword.base.atomic import atomic_folder, atomic_write
from nextword.encode.shards import EncodedDocument, Shards, open_shards, write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import CorruptFile, InputError, UnknownToken
from nextword.parameters.checkpoints import Checkpoint, checkpoint_steps, load_checkpoint, save_checkpoint
from nextword.parameters.export import to_json
from nextword.trace.checkpoint import checkpoint_model
from nextword.trace.recording import check_token
from nextword.trace.text.indexed import IndexedText, open_indexed, training_order
from nextword.trace.text.influence import influences
from nextword.train.plan import Budget
from nextword.train.run import Run, resume

_OTHERS = 20  # stretches of text that a passage's influence is compared with


@dataclass(frozen=True)
class Withheld:
    """A passage that stands `count` times in the text of `run`, and was read for the first time in step `first_read`
    (from 0); `exposures` times in all. The run goes back to where it had taken `resumed_after` steps.
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
        """What the passage added to log p, in nats; infinite where the token became impossible."""
        if not self.without_passage:
            return math.inf
        return math.log(self.with_passage / self.without_passage) if self.with_passage else -math.inf


@dataclass(frozen=True)
class Foretold:
    """What cheap attributions say of the passage and a token after a prompt, to be held against the `Effect`.

    Of the places of the longest end of the prompt that the text holds, the token follows in the share `counted_with`;
    in the text without the passage, `counted_without`. `below` of `others` other stretches of the text, as long as the
    passage, have less influence than it (nextword.trace.text.influence).
    """

    counted_with: float
    counted_without: float
    below: int
    others: int


def start_without(run: Path, passage: str, out: Path, *, device: str = "auto") -> tuple[Run, Withheld]:
    """The new run `out`, which is to be trained and resumed like any other.

    Raises InputError for a passage that the text does not hold or that was never read, for a run that is not finished,
    whose text was changed or that has no checkpoint from before, and for a folder in use; ModelNotFound, CorruptFile,
    NoDiskRoom, OSError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose a new folder.")
    order, taken = training_order(run)
    card = _finished_card(run)
    if card["recipe"].get("from_pairs"):
        raise InputError(
            f"{run} began with the pairs of its whole text, so no checkpoint is from before a passage of it."
        )
    shards, tokenizer = open_shards(run / "corpus" / "train"), Tokenizer.from_folder(run)
    places = find_passage(shards, tokenizer, passage)
    if not places:
        raise InputError(f"The text of {run} does not hold {passage!r}; give words as they stand in it.")
    # A row may begin with the last token of the passage and predict only what follows.
    read = [each.step for place in places for each in order.exposures(range(place.start, place.stop + 1), taken)]
    if not read:
        raise InputError(f"{run} never read {passage!r}: its {taken:,} steps did not come to it.")
    before = max((step for step in checkpoint_steps(run) if step <= min(read)), default=None)
    if before is None:
        raise InputError(
            f"{run} has no checkpoint from before it read {passage!r} in step {min(read) + 1:,}; give the run that it "
            "was made from, or restore its first checkpoint."
        )
    withheld = Withheld(str(run), passage, len(places), len(set(read)), min(read), before)
    restart(run, out, before, places, {**card, "without": asdict(withheld)})
    return resume(out, device=device), withheld


def find_passage(shards: Shards, tokenizer: Tokenizer, passage: str) -> list[range]:
    """Where the text holds the passage, byte for byte: the positions of all tokens with a part of it."""
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
    """Make `out` the run as it was after `step` steps, with its schedule to the end and the tokens withheld.

    card: that of the run, and what is to be remembered besides. Raises InputError if the run's text was changed.
    """
    results, shards = card["results"], open_shards(run / "corpus" / "train")
    tokenizer, checkpoint = Tokenizer.from_folder(run), load_checkpoint(run, step)
    budget = asdict(Budget(steps=results["steps"]))
    if shards.content_hash() != checkpoint.numbers["hashes"]["text"]:
        raise InputError(f"The text of {run} is no longer what the run began with; restore it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        tokenizer.save(folder)
        text = shards
        if places:
            documents = _documents(shards, places, tokenizer.begin_id)
            text = write_shards(folder / "corpus" / "train", documents, token_bytes=shards.token_bytes)
        else:
            shutil.copytree(shards.folder, folder / "corpus" / "train")
        if (run / "corpus" / "heldout").exists():
            shutil.copytree(run / "corpus" / "heldout", folder / "corpus" / "heldout")
        numbers = {
            **checkpoint.numbers,
            "budget": budget,
            "corrections": results["corrections"],
            "hashes": {**checkpoint.numbers["hashes"], "text": text.hash},
            "seconds": 0.0,
        }
        save_checkpoint(folder, step, Checkpoint(checkpoint.tensors, numbers))
        facts = {**card["corpus"], "train": {**card["corpus"]["train"], "bytes": text.bytes, "hash": text.hash}}
        changed = {"budget": budget, "corpus": facts, "forecast": None, "results": None}
        atomic_write(folder / "card.json", to_json({**card, **changed}))
        if out.exists():
            out.rmdir()


def effect(run: Path, without: Path, prompt: Sequence[int], token: int) -> Effect:
    """What the passage did to the probability of `token` after `prompt`, from the last checkpoints of both runs.

    Raises ModelNotFound, CorruptFile, EmptyPrompt, ContextOverflow, UnknownToken.
    """
    with_passage, without_passage = (_probability(folder, prompt, token) for folder in (run, without))
    return Effect(with_passage, without_passage)


def foretell(run: Path, without: Path, passage: str, prompt: Sequence[int], token: int) -> Foretold:
    """What could have been said without training again, from the texts of both runs and the checkpoints of the first.

    Raises what `effect` and `nextword.trace.text.indexed.open_indexed` do.
    """
    text = open_indexed(run)
    place = find_passage(text.shards, text.tokenizer, passage)[0]
    size = place.stop - place.start
    random = np.random.default_rng(0)
    begins = [place.start, *random.integers(1, max(len(text.shards.tokens) - size, 2), _OTHERS).tolist()]
    # The token before a stretch only serves to predict its first.
    stretches = [text.shards.tokens[max(begin - 1, 0) : begin + size].tolist() for begin in begins]
    models = (checkpoint_model(run, step) for step in checkpoint_steps(run))
    its, *theirs = influences(models, prompt, token, stretches)
    below = sum(bool(other < its) for other in theirs)
    return Foretold(_followed(text, prompt, token), _followed(open_indexed(without), prompt, token), below, len(theirs))


def _followed(text: IndexedText, prompt: Sequence[int], token: int) -> float:
    length = text.index.longest_suffix(prompt)
    following = text.index.next_counts(prompt[len(prompt) - length :])
    return following.of(token) / following.total


def _probability(run: Path, prompt: Sequence[int], token: int) -> float:
    model = checkpoint_model(run, checkpoint_steps(run)[-1])
    check_token(token, model.architecture)
    with torch.no_grad():
        return float(model(torch.tensor([list(prompt)]))[0, -1].double().softmax(-1)[token])


def _finished_card(run: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((run / "card.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{run / 'card.json'} cannot be read ({error}); restore it.") from error
    if not card.get("results"):
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
