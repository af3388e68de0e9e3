"""Which model a question is about: one that the server was started with, or a checkpoint of a run that it shows.

Promises, each with a test: a checkpoint is named RUN@STEP, as `nextword diff` has it, and only those of listed runs can
be named; its probabilities are those of the run's own model when the run has ended; at most `KEPT_CHECKPOINTS` are
in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from nextword.api import GPT
from nextword.base.types import Json
from nextword.errors import InputError
from nextword.parameters.run_folder import RunFolder, checkpoint_named
from nextword.web.studio.runs import Learning
from nextword.web.studio.views import Views

KEPT_CHECKPOINTS = 3  # checkpoints: what is watched, and two that are compared


class Models:
    """The models by name, the first of which is meant where none is named."""

    def __init__(self, models: Mapping[str, Views], learning: Learning) -> None:
        self._models, self._learning = models, learning
        self._checkpoints: OrderedDict[str, Views] = OrderedDict()
        self._lock = threading.Lock()

    def named(self, name: str | None) -> Views:
        """Raises InputError for a name that nothing has, CorruptFile for a checkpoint that cannot be read."""
        if name is None:
            return next(iter(self._models.values()))
        if name in self._models:
            return self._models[name]
        place = self._checkpoint(name)
        if place is None:
            raise InputError(f"There is no model {name!r} here; there are {', '.join(self._models)}.")
        with self._lock:
            if name not in self._checkpoints:
                run, step = place
                self._checkpoints[name] = Views(GPT(run.stored_checkpoint(step)), name, None)
            self._checkpoints.move_to_end(name)
            while len(self._checkpoints) > KEPT_CHECKPOINTS:
                self._checkpoints.popitem(last=False)
            return self._checkpoints[name]

    def about(self, name: str | None) -> Json:
        """What the page says about a model, and what others there are.

        `runs`: the steps of their checkpoints. `checkpoint`: of which run and step the model is; None for another.
        """
        runs = {run: folder.steps() for run, folder in self._learning.runs().items()}
        view, checkpoint = self.named(name), None
        if name is not None and name not in self._models:
            place = checkpoint_named(name)
            assert place is not None, "or nothing has this name"
            checkpoint = {"run": place[0], "step": place[1]}
        return view.model() | {"models": list(self._models), "runs": runs, "checkpoint": checkpoint}

    def _checkpoint(self, name: str) -> tuple[RunFolder, int] | None:
        """The folder and the step of RUN@STEP; None if there is no such checkpoint."""
        run, step = checkpoint_named(name) or ("", 0)
        folder = self._learning.runs().get(run)
        return (folder, step) if folder is not None and step in folder.steps() else None
