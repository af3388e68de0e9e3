"""log.jsonl while a run is under way: each event is a record, written when it happens.

Promises: where a run is resumed, the log is again as it was at the checkpoint, so that what is done again is told once;
a full disk raises NoDiskRoom.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from nextword.base.atomic import disk_room_needed
from nextword.optimize.trainer import Trainer
from nextword.parameters.run_folder import RunFolder
from nextword.train.events import ENDS_AFTER, HELDOUT, Event, Stepped

E = TypeVar("E", bound=Event)


def trim_log(run: RunFolder, trainer: Trainer, decided: bool) -> None:
    """Drop the records of what will be done again, and tell that the run is resumed.

    Args:
        run: The run folder.
        trainer: At the checkpoint that the run goes on from.
        decided: Whether that checkpoint holds a decision made after its step.
    """

    def stays(record: Mapping[str, Any]) -> bool:
        step = record.get("step")
        if not isinstance(step, int) or "better" in record:
            return False
        if step < trainer.step or trainer.step >= trainer.steps or decided:
            return step <= trainer.step
        # What is measured and decided between two steps is done again.
        return step == trainer.step and record.keys().isdisjoint((HELDOUT, ENDS_AFTER))

    kept = [record for record in run.records() if stays(record)]
    if trainer.step:
        kept.append({"step": trainer.step, "resumed": True})
    run.write_records(kept)


@contextmanager
def open_log(run: RunFolder) -> Iterator[Callable[[E], E]]:
    """A function that appends an event to the log, if the log shows it, and returns the event."""
    # Closing the file writes what a full disk has not taken, so that fails once more.
    with disk_room_needed(run.path), run.log_path.open("ab") as file:

        def logged(event: E) -> E:
            if not isinstance(event, Stepped) or event.is_logged:
                file.write(json.dumps(event.record()).encode() + b"\n")
                file.flush()
            return event

        yield logged
