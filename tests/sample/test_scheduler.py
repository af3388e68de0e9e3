"""Many texts at once: each as if it were alone, none in the way of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextword
from nextword.api import GPT
from nextword.errors import Busy, Closing, ModelError, NextwordError
from nextword.sample.generation import SamplingLoop, Step
from nextword.sample.scheduler import Job, Scheduler
from nextword.sample.settings import Sampling

PROMPTS = ["Once upon a time", "She ate", "The king", "A", "Once upon a hill", "It was", "He said that", "Then the dog"]


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.cached = -1
        self.logits: list[Any] = []
        self.error: NextwordError | None = None
        self.done = threading.Event()
        self.heard = threading.Event()
        self.loop: SamplingLoop | None = None

    def began(self, cached: int) -> None:
        self.cached = cached

    def read(self, first: int, logits: Any) -> None:
        assert first == sum(map(len, self.logits))
        self.logits.append(logits)

    def wrote(self, step: Step) -> None:
        self.steps.append(step)
        self.heard.set()
        if self.loop is not None and self.loop.finish_reason is not None:
            self.done.set()

    def ended(self, error: NextwordError | None) -> None:
        self.error = error
        self.done.set()

    @property
    def ids(self) -> list[int]:
        return [step.token.id for step in self.steps]


@pytest.fixture(scope="module")
def gpt() -> GPT:
    return nextword.open("tales")


@pytest.fixture
def scheduler(gpt: GPT) -> Iterator[Scheduler]:
    made = Scheduler(gpt.engine, rows=4, queue=8)
    yield made
    made.close(0)
    made.join(10)
    assert made.running == made.waiting == 0


def job(gpt: GPT, prompt: str, max_tokens: int = 20, **settings: Any) -> Job:
    ids, ear = gpt.tokenizer.encode_prompt(prompt), Ear()
    settings = {"sampling": Sampling(0.9, top_p=0.95), "seed": len(prompt), **settings}
    ear.loop = SamplingLoop(gpt.tokenizer, ids, capacity=gpt.architecture.context, max_tokens=max_tokens, **settings)
    return Job(ids, ear, ear.loop)


def wait(*jobs: Job) -> None:
    for each in jobs:
        assert isinstance(each.listener, Ear)
        assert each.listener.done.wait(30)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_text_is_the_same_alone_among_others_and_from_generate(gpt: GPT, scheduler: Scheduler) -> None:
    alone = []
    for prompt in PROMPTS:
        one = job(gpt, prompt)
        scheduler.submit([one])
        wait(one)
        alone.append(one.listener.ids)
    together = [job(gpt, prompt) for prompt in PROMPTS]  # on four rows: some join when others leave
    scheduler.submit(together)
    wait(*together)
    assert [each.listener.ids for each in together] == alone
    for prompt, ids in zip(PROMPTS, alone, strict=True):
        ours = gpt.generate(prompt, max_tokens=20, sampling=Sampling(0.9, top_p=0.95), seed=len(prompt))
        assert [step.token.id for step in ours] == ids


def test_what_texts_begin_with_alike_is_read_once(gpt: GPT, scheduler: Scheduler) -> None:
    prompt = "Once upon a time there was a king who had three sons, and the youngest of them was"
    first, again, other = (job(gpt, prompt) for _ in range(3))
    scheduler.submit([first, again])  # both at once: the second copies what the first has read
    wait(first, again)
    before = scheduler.counts.prompt_tokens
    scheduler.submit([other])
    wait(other)
    n = len(first.prompt)
    assert (first.listener.cached, again.listener.cached, other.listener.cached) == (0, n - 1, n - 1)
    assert scheduler.counts.prompt_tokens == before + 1
    assert first.listener.ids == again.listener.ids == other.listener.ids


def test_a_long_prompt_does_not_silence_the_others(gpt: GPT, scheduler: Scheduler) -> None:
    talking = job(gpt, "Once", max_tokens=400, stop_ids=frozenset())
    scheduler.submit([talking])
    assert talking.listener.heard.wait(10)
    text = "The cat sat on the mat. " * 100
    ids = gpt.tokenizer.encode_prompt(text)[: gpt.architecture.context]
    ear = Ear()
    ear.loop = SamplingLoop(
        gpt.tokenizer, ids, capacity=gpt.architecture.context, max_tokens=1, sampling=Sampling(), seed=0
    )
    said: list[int] = []
    ear.began = lambda cached: said.append(len(talking.listener.steps))  # type: ignore[method-assign]
    scheduler.submit([Job(ids, ear, ear.loop)])
    assert ear.done.wait(10)
    assert len(talking.listener.steps) - said[0] >= len(ids) // 128 - 1
    scheduler.cancel([talking])


def test_a_cancelled_text_costs_no_token_more_and_frees_its_row(gpt: GPT, scheduler: Scheduler) -> None:
    endless = [job(gpt, "Once", max_tokens=400, stop_ids=frozenset()) for _ in range(6)]  # two of them wait
    scheduler.submit(endless)
    for each in endless[:4]:
        assert each.listener.heard.wait(10)
    scheduler.cancel(endless)
    counts = [len(each.listener.steps) for each in endless]
    until(lambda: scheduler.running == scheduler.waiting == 0)
    assert all(len(each.listener.steps) <= n + 1 for each, n in zip(endless, counts, strict=True))
    assert scheduler.counts.cancelled == 6
    after = job(gpt, "She")
    scheduler.submit([after])
    wait(after)


def test_more_than_the_queue_holds_is_refused_all_or_none(gpt: GPT, scheduler: Scheduler) -> None:
    endless = [job(gpt, "Once", max_tokens=400, stop_ids=frozenset()) for _ in range(10)]
    scheduler.submit(endless)
    with pytest.raises(Busy, match="try again"):
        scheduler.submit([job(gpt, "x") for _ in range(3)])
    assert scheduler.running + scheduler.waiting == 10
    scheduler.cancel(endless)


def test_a_close_lets_texts_end_and_tells_the_rest(gpt: GPT) -> None:
    scheduler = Scheduler(gpt.engine, rows=1, queue=8)
    short, waiting = job(gpt, "Once", max_tokens=30, stop_ids=frozenset()), job(gpt, "She")
    scheduler.submit([short, waiting])
    assert short.listener.heard.wait(10)
    scheduler.close(10)
    with pytest.raises(Closing):
        scheduler.submit([job(gpt, "x")])
    scheduler.join(10)
    assert len(short.listener.ids) == 30
    assert isinstance(waiting.listener.error, Closing)


def test_a_close_without_grace_tells_everybody(gpt: GPT) -> None:
    scheduler = Scheduler(gpt.engine, rows=1, queue=8)
    endless = job(gpt, "Once", max_tokens=400, stop_ids=frozenset())
    scheduler.submit([endless])
    assert endless.listener.heard.wait(10)
    scheduler.close(0)
    wait(endless)
    assert isinstance(endless.listener.error, Closing)


def test_an_error_ends_its_own_text_only(gpt: GPT, scheduler: Scheduler) -> None:
    good, bad = job(gpt, "Once", max_tokens=60, stop_ids=frozenset()), job(gpt, "She", max_tokens=60)

    def fail(step: Step) -> None:
        raise RuntimeError("a bug")

    bad.listener.wrote = fail  # type: ignore[method-assign]
    scheduler.submit([good, bad])
    wait(good, bad)
    assert isinstance(bad.listener.error, ModelError)
    assert len(good.listener.ids) == 60


def test_scores_are_the_logits_after_each_token(gpt: GPT, scheduler: Scheduler) -> None:
    ids = gpt.tokenizer.encode_prompt("Once upon a time there was a cat. " * 20)[:200]
    ear = Ear()
    scheduler.submit([Job(ids, ear, None, scores=True)])
    assert ear.done.wait(10)
    assert ear.error is None
    assert np.array_equal(np.concatenate(ear.logits), gpt.engine.open_session().feed_all(ids))


def test_an_engine_without_rows_serves_too(tiny_folder: Callable[[str], Path]) -> None:
    gpt = nextword.open(tiny_folder("gpt2"))
    from nextword.predict.torch_engine import TorchEngine

    scheduler = Scheduler(TorchEngine.of(gpt.reference_model), rows=2, queue=2)
    jobs = [job(gpt, "She ate an apple", max_tokens=8, sampling=Sampling(0)) for _ in range(3)]
    scheduler.submit(jobs)
    wait(*jobs)
    assert jobs[0].listener.ids == jobs[1].listener.ids == jobs[2].listener.ids
    scheduler.close(0)
    scheduler.join(10)
