"""What was learned, when: the runs that the studio shows, from their logs and checkpoints.

Promises, each with a test: only runs in the folders named when the server was started can be asked for, by a name that
was listed; half-written lines of a log are passed over; a curve has at most `CURVE_POINTS` points, its first and last
among them; a continuation's probability is the product of its tokens' at every checkpoint, by the reference
model in float32.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from nextword.base.types import Json
from nextword.corpus.document import WORLD
from nextword.corpus.language import World, text_of, words_of
from nextword.corpus.worlds import WORLDS, world
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import ContextOverflow, InputError
from nextword.parameters.run_folder import Card, RunFolder
from nextword.train.page.charts import spread

CURVE_POINTS = 300  # points: of a curve
SAMPLES = 40  # texts: the last of a run
TOP_TOKENS = 5  # tokens: told of each checkpoint
KEPT_HISTORIES = 64  # words: whose way through a run is remembered
# Words whose true chance is known, and that tell what has been learned: a pair, a rule, a fact.
_SERIES = {"bits_per_byte": "training", "heldout_bits_per_byte": "heldout"}


class Learning:
    """The runs that may be looked at. Not to be called by two threads at once, but for `runs` and `curves`.

    run: the folder of one run. runs: a folder whose folders are runs.
    """

    def __init__(self, run: Path | None = None, runs: Path | None = None) -> None:
        self._run, self._folder = None if run is None else RunFolder(run), runs
        self._words: OrderedDict[tuple[str, str, str, tuple[int, ...]], Json] = OrderedDict()

    def runs(self) -> dict[str, RunFolder]:
        """The runs by name, the youngest last."""
        found = {} if self._run is None else {self._run.path.resolve().name: self._run}
        if self._folder is not None and self._folder.is_dir():
            folders = map(RunFolder, self._folder.iterdir())
            made = [run for run in folders if not run.path.name.startswith(".") and run.is_run]
            made.sort(key=lambda run: run.made_at)
            found |= {run.path.name: run for run in made if run.path.name not in found}
        return found

    def _named(self, name: str) -> RunFolder:
        """Raises InputError for a name that is not listed."""
        runs = self.runs()
        if name not in runs:
            raise InputError("There is no such run here; choose one from the list.")
        return runs[name]

    def curves(self, name: str) -> Json:
        """Curves in bits per byte by the step, samples, checkpoints, forecast, floor and results of a run.

        `floor`: what no model of a known-truth language can get below; `watch`: words of it worth watching.
        """
        run = self._named(name)
        card = run.card()
        language = _language(card)
        series: dict[str, dict[int, float]] = {payload: {} for payload in _SERIES.values()}
        samples: dict[int, str] = {}
        for record in run.records():
            step = record.get("step")
            if not isinstance(step, int):
                continue
            for key, payload in _SERIES.items():
                value = record.get(key)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    series[payload][step] = float(value)
            match record.get("sample"):
                case {"text": str(text)}:
                    samples[step] = text
        return {
            "name": name,
            **{name: spread(sorted(points.items()), CURVE_POINTS) for name, points in series.items()},
            "samples": [{"step": step, "text": text} for step, text in sorted(samples.items())[-SAMPLES:]],
            "checkpoints": run.steps(),
            "forecast": card.find("forecast"),
            "floor": language and language.entropy_per_byte(),
            "watch": [
                {"prompt": prompt, "continuation": continuation}
                for prompt, continuation in (language.questions if language else ())
            ],
            "results": card.results,
        }

    def word(self, name: str, prompt: str, continuation: str) -> Json:
        """The probability of a continuation at each checkpoint of a run, and the most probable tokens there.

        Args:
            name: Of the run.
            prompt: What comes before.
            continuation: What is watched.

        Returns:
            JSON; `truth` is the true probability, None where no rule of a language tells it.

        Raises:
            InputError: There is no such run, no checkpoint or no continuation.
            EmptyPrompt: There is no prompt.
            ContextOverflow: The text is longer than the run's context.
            CorruptFile: A file of the run is damaged.
        """
        run = self._named(name)
        steps = run.steps()
        key = (name, prompt, continuation, tuple(steps))
        if key not in self._words:
            truth = _truth(_language(run.card()), prompt, continuation)
            self._words[key] = {**_way(run, steps, prompt, continuation), "truth": truth}
        self._words.move_to_end(key)
        while len(self._words) > KEPT_HISTORIES:
            self._words.popitem(last=False)
        return self._words[key]


def _language(card: Card) -> World | None:
    """The known-truth language that a run learned; None for other text."""
    match card.find("corpus"):
        case {"paths": [str(path)]} if path.startswith(WORLD):
            name = path.removeprefix(WORLD).partition(",")[0]
            return world(name) if name in WORLDS else None
    return None


def _truth(language: World | None, prompt: str, continuation: str) -> float | None:
    """The true probability of the continuation, if both are whole words of the language."""
    words, before = words_of(prompt + continuation), words_of(prompt)
    if language is None or text_of(words) != prompt + continuation or text_of(before) != prompt:
        return None
    if words[: len(before)] != before or len(words) == len(before):
        return None
    truth = 1.0
    with suppress(InputError):
        for at in range(len(before), len(words)):
            chances = language.next_words(words[:at])
            if words[at] not in chances and any(whole.startswith(words[at]) for whole in chances):
                return None
            truth *= chances.get(words[at], 0.0)
        return truth
    return None


def _way(run: RunFolder, steps: list[int], prompt: str, continuation: str) -> Json:
    import torch

    from nextword.predict.torch_engine import checkpoint_model
    from nextword.trace.text.history import Moment, learned_in

    tokenizer = run.tokenizer()
    before = tokenizer.encode_prompt(prompt)
    after = _after(tokenizer, before, prompt, continuation)
    if not after:
        raise InputError("Say which word to watch: at least one character.")
    if not steps:
        raise InputError("This run has no checkpoint yet; wait a moment.")
    moments, payload = [], []
    for step in steps:
        model = checkpoint_model(run.path, step)
        if len(before) + len(after) > model.architecture.context:
            raise ContextOverflow(f"The text is longer than this run's context of {model.architecture.context} tokens.")
        with torch.inference_mode():
            logits = model(torch.tensor([[*before, *after]]))[0, len(before) - 1 : -1]
        scores = logits[:, : tokenizer.vocab_size].double().log_softmax(-1)
        log_p = float(scores.gather(1, torch.tensor(after)[:, None]).sum())
        best = scores[0].topk(min(TOP_TOKENS, scores.shape[1]))
        moments.append(Moment(step, log_p, {}, None))
        payload.append(
            {
                "step": step,
                "probability": math.exp(log_p),
                "rank": int((scores[0] > scores[0, after[0]]).sum()) + 1,
                "top": [
                    {"id": id, "token": tokenizer.token_text(id), "probability": math.exp(value)}
                    for id, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ],
            }
        )
    learned = learned_in(moments) if len(moments) > 1 else None
    rises = [math.exp(b.log_probability) - math.exp(a.log_probability) for a, b in pairwise(moments)]
    most = max(range(len(rises)), key=rises.__getitem__, default=0)
    return {
        "prompt": prompt,
        "continuation": continuation,
        "tokens": [tokenizer.token_text(id) for id in after],
        "moments": payload,
        "learned": learned and {"after": learned.after, "by": learned.by, "share": learned.share},
        "gained": {"after": steps[most], "by": steps[min(most + 1, len(steps) - 1)]},
    }


def _after(tokenizer: Tokenizer, before: list[int], prompt: str, continuation: str) -> list[int]:
    """The ids of the continuation as the text would be cut, or, where the cut falls inside, of itself alone."""
    whole = tokenizer.encode_prompt(prompt + continuation)
    return whole[len(before) :] if whole[: len(before)] == before else tokenizer.encode(continuation)
