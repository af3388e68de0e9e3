"""Training learns what there is to learn, is a function of its recipe, and is resumed without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import log

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextword.errors import CorruptFile, Diverged, InputError, NextwordError
from nextword.model.transformer import Transformer
from nextword.optimize import trainer as module
from nextword.optimize.batches import batch
from nextword.optimize.initialize import initial_weights
from nextword.optimize.order import Order
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Progress, State, Trainer
from tests.optimize.texts import TinyText, random_weights, text_of, tiny_architecture

ARCHITECTURE = tiny_architecture(vocab=12, context=8)
RECIPE = Recipe(ARCHITECTURE, steps=12, batch_size=4, muon_lr=0.02, adam_lr=0.01, momentum_warmup=4)
DOCUMENTS = [[1 + (i * j) % 11 for i in range(20 + j)] for j in range(1, 6)]
TEXT = text_of(DOCUMENTS, 12)  # about 15 rows an epoch: 12 steps of 4 rows pass its end three times


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(a: State, b: State) -> bool:
    def equal(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
        return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)

    return equal(a.weights, b.weights) and equal(a.optimizer, b.optimizer) and a.numbers == b.numbers


def without_time(progress: list[Progress]) -> list[Progress]:
    return [replace(each, seconds=0.0) for each in progress]


def stored(state: State) -> State:
    """As it comes back from a file: other memory, numbers through JSON."""
    weights, optimizer = ({n: t.clone() for n, t in d.items()} for d in (state.weights, state.optimizer))
    return State(weights, optimizer, json.loads(json.dumps(state.numbers)))


def test_it_memorises_a_small_text() -> None:
    text = text_of([np.random.default_rng(0).integers(1, 30, 60).tolist()], 30)
    recipe = Recipe(standard(32, 2, vocab=30, context=16), steps=60, batch_size=8, muon_lr=0.05, adam_lr=0.02)
    progress = list(Trainer(recipe, text))
    assert progress[0].loss == pytest.approx(log(30), abs=0.3)
    assert progress[-1].loss < 0.2


def pairs(n: int, seed: int) -> TinyText:
    """Documents of word pairs: any of 8 first words, then one of its own three with 0.7, 0.2, 0.1."""
    random = np.random.default_rng(seed)
    first = random.integers(0, 8, n)
    second = 8 + (first * 3 + random.choice(3, n, p=[0.7, 0.2, 0.1])) % 8
    words = 1 + np.stack([first, second], axis=1).ravel()
    return text_of(words.reshape(-1, 32).tolist(), 17)


def test_it_learns_a_language_of_word_pairs_down_to_its_entropy() -> None:
    """Held out: far below what word frequencies allow, close to what the language itself leaves open."""
    text, heldout = pairs(4096, 0), pairs(1024, 1)
    recipe = Recipe(standard(32, 1, vocab=17, context=32), steps=160, batch_size=16, muon_lr=0.03, adam_lr=0.02)
    trainer = Trainer(recipe, text, heldout)
    list(trainer)
    frequencies = np.bincount(text.tokens, minlength=17)[1:] / (text.tokens > 0).sum()
    unigram = -(frequencies * np.log(frequencies)).sum()
    true = (log(8) - 0.7 * log(0.7) - 0.2 * log(0.2) - 0.1 * log(0.1)) / 2
    measured = trainer.evaluate().nats_per_token
    assert true * 0.98 < measured < true * 1.03
    assert measured < unigram - 0.8


def test_a_step_is_that_of_the_equations_and_torchs_cross_entropy() -> None:
    weights = random_weights(ARCHITECTURE)
    first = next(iter(Trainer(RECIPE, TEXT, weights=weights)))
    model = Transformer.of(ARCHITECTURE, {name: w.clone() for name, w in weights.items()})
    read = batch(TEXT, Order(len(TEXT.tokens), 8, 4, seed=0), 0)
    loss = F.cross_entropy(model(read.ids).flatten(0, 1), read.targets.flatten())
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    assert first.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    assert first.bits_per_byte == pytest.approx(loss.item() * 32 / log(2) / read.bytes, rel=1e-5)
    assert (first.step, first.tokens) == (0, 32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_recipe_gives_the_same_bits(dtype: str) -> None:
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        trainer = Trainer(replace(RECIPE, dtype=dtype, steps=6), TEXT)
        runs.append((without_time(list(trainer)), trainer.state()))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    other = Trainer(replace(RECIPE, dtype=dtype, steps=6, seed=1), TEXT)
    list(other)
    assert not same(other.state(), runs[0][1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stops", [[1], [4, 5], [3, 3, 11], [12], [0]])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(dtype: str, stops: list[int]) -> None:
    recipe = replace(RECIPE, dtype=dtype)
    straight = Trainer(recipe, TEXT)
    whole = without_time(list(straight))
    progress: list[Progress] = []
    state = None
    for stop in stops:
        part = Trainer(recipe, TEXT, state=state)
        progress += islice(part, stop - part.step)
        state = stored(part.state())
        list(part)  # what the interrupted run still did must not matter
    last = Trainer(recipe, TEXT, state=state)
    progress += last
    assert without_time(progress) == whole
    assert same(last.state(), straight.state())


def test_corrections_are_part_of_the_state() -> None:
    straight = Trainer(RECIPE, TEXT)
    list(islice(straight, 5))
    straight.correct(9)
    list(islice(straight, 1))
    resumed = Trainer(RECIPE, TEXT, state=stored(straight.state()))
    assert resumed.steps == 9
    assert without_time(list(straight)) == without_time(list(resumed))
    assert (straight.step, same(straight.state(), resumed.state())) == (9, True)
    resumed.correct(3)
    assert list(resumed) == []


def test_a_loss_that_is_not_finite_stops_before_it_harms(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Trainer(RECIPE, TEXT)
    list(islice(straight, 3))
    before = straight.state()
    original = module.cross_entropy
    monkeypatch.setattr(module, "cross_entropy", lambda *arguments: original(*arguments) * torch.inf)
    with pytest.raises(Diverged, match="loss of step 4 is not a finite number") as caught:
        list(straight)
    assert isinstance(caught.value, NextwordError)
    assert same(straight.state(), before)
    monkeypatch.undo()
    fresh = Trainer(RECIPE, TEXT)
    assert without_time(list(straight)) == without_time(list(fresh))[3:]


def test_a_gradient_that_is_not_finite_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.cross_entropy

    def steep(states: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return original(states, *rest) + (states.sum() * 0).sqrt()

    monkeypatch.setattr(module, "cross_entropy", steep)
    trainer = Trainer(RECIPE, TEXT)
    before = trainer.state()
    with pytest.raises(Diverged, match="gradient of step 1 is not a finite number"):
        list(trainer)
    assert same(trainer.state(), before)


def test_rows_in_which_nothing_counts_teach_nothing() -> None:
    half = len(TEXT.tokens) // 2
    mask = [0] * half + [1] * (len(TEXT.tokens) - half)
    masked = replace(TEXT, mask=np.array(mask, dtype=np.uint8))
    other_words = replace(masked, tokens=np.where(np.arange(len(mask)) < half - 8, 3, TEXT.tokens).astype(np.uint16))
    runs = [Trainer(replace(RECIPE, batch_size=1, steps=20), each) for each in (masked, other_words)]
    progress = [list(run) for run in runs]
    silent = [each for each in progress[0] if each.loss == 0]
    assert len(silent) > 3
    assert all(each.bits_per_byte == each.gradient_norm == 0 for each in silent)
    assert same(runs[0].state(), runs[1].state())


def test_it_starts_from_given_weights_and_leaves_them_alone() -> None:
    weights = random_weights(ARCHITECTURE)
    before = {name: w.clone() for name, w in weights.items()}
    trainer = Trainer(RECIPE, TEXT, weights=weights)
    state = trainer.state()
    assert all(torch.equal(state.weights[name], before[name]) for name in before)
    list(trainer)
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert all(torch.equal(state.weights[name], before[name]) for name in before)
    fresh = Trainer(RECIPE, TEXT).state().weights
    assert all(torch.equal(w, fresh[name]) for name, w in initial_weights(ARCHITECTURE, 0).items())


def test_bfloat16_learns_as_float32_does_and_keeps_float32_weights() -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        trainer = Trainer(Recipe(standard(32, 1, vocab=17, context=32), 30, 8, dtype=dtype), pairs(1024, 0))
        losses[dtype] = list(trainer)[-1].loss
        assert {w.dtype for w in trainer.state().weights.values()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_that_a_step_computes_with_is_on_the_device(dtype: str) -> None:
    """The meta device holds no numbers, but refuses as a GPU does to compute with tensors that lie elsewhere."""
    trainer = Trainer(replace(RECIPE, dtype=dtype), TEXT, device="meta")
    ids = torch.zeros((2, 8), dtype=torch.int64, device="meta")
    for model in (trainer._model, trainer.model()):
        assert model(ids).device.type == "meta"
    trainer._optimizer.step(trainer._weights, 0, RECIPE.schedule(0))


def test_torchs_settings_are_as_before() -> None:
    def settings() -> list[bool]:
        cuda = torch.backends.cuda
        return [cuda.fp16_bf16_reduction_math_sdp_allowed(), cuda.flash_sdp_enabled(), cuda.math_sdp_enabled()]

    before = settings()
    list(islice(Trainer(RECIPE, TEXT), 1))
    assert settings() == before


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="written in 13 tokens, but the model knows 12"):
        Trainer(RECIPE, text_of(DOCUMENTS, 13))
    with pytest.raises(InputError, match="too few for one row"):
        Trainer(RECIPE, text_of([[1, 2]], 12))
    with pytest.raises(InputError, match="weights do not fit"):
        Trainer(RECIPE, TEXT, weights=random_weights(tiny_architecture(vocab=13)))
    with pytest.raises(InputError, match="--holdout"):
        Trainer(RECIPE, TEXT).evaluate()
    state = Trainer(RECIPE, TEXT).state()
    with pytest.raises(CorruptFile, match="position in the run"):
        Trainer(RECIPE, TEXT, state=replace(state, numbers={"step": 3}))
    with pytest.raises(CorruptFile, match="optimizer state"):
        Trainer(RECIPE, TEXT, state=replace(state, optimizer={}))
