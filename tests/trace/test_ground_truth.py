"""Instruments read models whose truth is known: what was planted is found, and nothing else is.

Models are trained here, in seconds, with the project's own equations and torch's AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextword.corpus.index import build_index
from nextword.model.architecture import Architecture, RMSNorm, Rotary, SwiGLU, tensor_shapes
from nextword.model.transformer import Transformer
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Trainer
from nextword.trace.interventions import EditHook, Scale
from nextword.trace.logit.attribution import Quantity, attribute
from nextword.trace.logit.audit import audit
from nextword.trace.logit.components import Head, Layer, Position, Read, Source, Token
from nextword.trace.recording import record
from nextword.trace.settings import Ablation, Granularity
from nextword.trace.text import history as module
from nextword.trace.text.history import trace_history
from nextword.trace.weights.bigrams import weight_logits
from nextword.trace.weights.heads import head_roles
from nextword.trace.weights.vocabulary import head_attends, head_writes
from tests.optimize.texts import TinyText
from tests.trace.models import induction_model

LETTERS, LENGTH = 24, 40  # of the texts that repeat themselves


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(layers: int, vocab: int, context: int, width: int = 64) -> Transformer:
    """A model with one head a layer and without MLPs: theirs write nothing, and are not trained."""
    architecture = Architecture(
        vocab=vocab,
        context=context,
        width=width,
        n_layers=layers,
        n_heads=1,
        n_kv_heads=1,
        head_size=width,
        norm=RMSNorm(1e-6),
        position=Rotary(1000.0),
        mlp=SwiGLU(1),
    )
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in tensor_shapes(architecture).items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape)
        elif ".mlp." in name:
            weights[name] = torch.zeros(shape)
        else:
            scale = {"embed.weight": 0.2, "unembed.weight": 0.02}.get(name, shape[1] ** -0.5)
            weights[name] = scale * torch.randn(shape, generator=generator)
    return Transformer.of(architecture, weights)


def train(model: Transformer, steps: int, loss: Callable[[], torch.Tensor], rate: float = 5e-3) -> Iterator[int]:
    """Steps of AdamW, rates rising for 20 of them and then falling to 0; each number of steps that are done."""
    parameters = [each for name, each in model.named_parameters() if ".mlp." not in name]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step + 1


def copy(model: Transformer) -> Transformer:
    weights = {name: each.detach().clone() for name, each in model.state_dict().items()}
    return Transformer.of(model.architecture, weights).requires_grad_(False).eval()


# Word pairs: a model without blocks


def test_without_blocks_the_weights_become_the_bigrams_of_the_text() -> None:
    random, vocab = np.random.default_rng(0), 12
    truth = random.dirichlet(np.full(vocab, 0.5), vocab)
    text = [0]
    for draw in random.random(20_000):
        text.append(min(int(np.searchsorted(np.cumsum(truth[text[-1]]), draw)), vocab - 1))
    counts = np.zeros((vocab, vocab))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    model, wanted = fresh(0, vocab, 4), torch.tensor(counts / counts.sum(), dtype=torch.float32)

    def scores() -> torch.Tensor:
        return model.logits(model.states(torch.arange(vocab)[:, None])[:, 0]).log_softmax(-1)

    for _ in train(model, 600, lambda: -(wanted * scores()).sum(), rate=0.03):
        pass
    trained = copy(model)
    said = torch.stack([weight_logits(trained, first) for first in range(vocab)])  # what `pairs` shows
    from_weights = said.double().log_softmax(-1).numpy()
    bigrams = counts / counts.sum(1, keepdims=True)
    divergence = np.where(bigrams > 0, bigrams * (np.log(np.maximum(bigrams, 1e-300)) - from_weights), 0).sum(1)
    assert (divergence * counts.sum(1) / counts.sum()).sum() <= 1e-3


# Copying: repeated random tokens


def repeated(generator: torch.Generator, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts [rows, LENGTH] of a period drawn for each, and where the next token is a repetition."""
    period = torch.randint(6, 20, (rows, 1), generator=generator)
    once = torch.randint(0, LETTERS, (rows, 20), generator=generator)
    return once.gather(1, torch.arange(LENGTH)[None] % period), torch.arange(1, LENGTH)[None] >= period + 1


def losses(model: Transformer, texts: torch.Tensor, hook: Any = None) -> torch.Tensor:
    logits = model.logits(model.states(texts[:, :-1], hook=hook))
    return F.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten(), reduction="none").view(len(texts), -1)


def learn_to_repeat(layers: int, steps: int, every: int = 20) -> dict[int, Transformer]:
    """The model as it was after each `every` steps, 0 included."""
    model, generator = fresh(layers, LETTERS, LENGTH), torch.Generator().manual_seed(0)
    kept = {0: copy(model)}
    for done in train(model, steps, lambda: losses(model, repeated(generator, 64)[0]).mean()):
        if done % every == 0:
            kept[done] = copy(model)
    return kept


@pytest.fixture(scope="module")
def checkpoints() -> dict[int, Transformer]:
    return learn_to_repeat(2, 500)


def on_repetitions(model: Transformer, *edits: Scale) -> float:
    """Mean loss, in nats, where the text repeats itself, under edits."""
    texts, repeats = repeated(torch.Generator().manual_seed(99), 64)
    with torch.no_grad():
        return float(losses(model, texts, EditHook(edits, 0) if edits else None)[repeats].mean())


def test_an_induction_head_fed_by_a_previous_token_head_appears(checkpoints: dict[int, Transformer]) -> None:
    model = checkpoints[500]
    roles = head_roles(model)
    assert roles.induction[1, 0] >= 0.6
    assert next(iter(roles.of(0, 0))) == "previous"
    before = head_roles(checkpoints[0])
    assert before.induction[1, 0] < 0.2


def test_ablating_either_head_of_the_circuit_restores_the_lost_loss(checkpoints: dict[int, Transformer]) -> None:
    at_first, learned = on_repetitions(checkpoints[0]), on_repetitions(checkpoints[500])
    assert learned < 0.15 * at_first
    for layer in (0, 1):
        without = on_repetitions(checkpoints[500], Scale(f"blocks.{layer}.attention.z", 0, unit=0))
        assert without - learned >= 0.8 * (at_first - learned)


def test_one_layer_does_not_learn_it() -> None:
    control = learn_to_repeat(1, 500)
    assert on_repetitions(control[500]) > 0.5 * on_repetitions(control[0])
    assert head_roles(control[500]).induction[0, 0] < 0.3


def test_the_history_places_the_jump(checkpoints: dict[int, Transformer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.RunFolder, "run_steps", lambda run: sorted(checkpoints))
    monkeypatch.setattr(module, "checkpoint_model", lambda run, step: checkpoints[step])
    monkeypatch.setattr(module, "read_in", lambda *how: None)
    steps = sorted(checkpoints)
    measured = [on_repetitions(checkpoints[step]) for step in steps]
    drops = [before - after for before, after in pairwise(measured)]
    jump = drops.index(max(drops))
    once = np.random.default_rng(5).choice(LETTERS, 12, replace=False).tolist()
    found = []
    for shift in range(6):  # one text may jump a checkpoint sooner or later than the mean of many
        ids = [*once, *once[: 3 + shift]]
        story: Any = trace_history(Path(), ids, once[3 + shift], None, None, roles=True)  # type: ignore[arg-type]
        assert story.learned is not None
        found.append(steps.index(story.learned.after))
        scores = [moment.roles.induction[1, 0] for moment in story.moments]
        assert scores[-1] > 0.6 > 0.3 > scores[0]
    assert abs(np.median(found) - jump) <= 1


# Skip-trigrams: what one layer can plant


def test_skip_trigrams_are_read_off_the_weights() -> None:
    vocab, length = 16, 10
    keys, answers, ask = [0, 1, 2, 3], [4, 5, 6, 7], 8
    generator = torch.Generator().manual_seed(0)

    def texts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise with one key somewhere, then `ask`; the answer depends on the key alone."""
        noise = torch.randint(9, vocab, (rows, length), generator=generator)
        which = torch.randint(0, 4, (rows,), generator=generator)
        place = torch.randint(0, length - 1, (rows,), generator=generator)
        noise[torch.arange(rows), place] = torch.tensor(keys)[which]
        noise[:, -1] = ask
        return noise, torch.tensor(answers)[which]

    model = fresh(1, vocab, 40)

    def loss() -> torch.Tensor:
        ids, wanted = texts(64)
        return F.cross_entropy(model.logits(model.states(ids)[:, -1]), wanted)

    for _ in train(model, 200, loss):
        pass
    with torch.no_grad():
        assert float(loss()) < 0.05
    trained = copy(model)
    for key, answer in zip(keys, answers, strict=True):
        assert head_writes(trained, 0, 0, key, 1)[0].ids[0] == answer
    assert set(head_attends(trained, 0, 0, ask, 3).ids) < set(keys), "where three keys are missing, it is the fourth"
    assert head_roles(trained).induction[0, 0] < 0.2


# A Markov language of order two: three tables of one thing


def test_an_order_2_language_in_truth_in_the_index_and_in_the_model(tmp_path: Path) -> None:
    """p(c | a b) for every a, b, c: as it is, as the index counts it, and as a trained model says it."""
    vocab, random = 5, np.random.default_rng(0)
    truth = random.dirichlet(np.full(vocab, 0.5), (vocab, vocab))
    text = [0, 1]
    for draw in random.random(60_000):
        text.append(min(int(np.searchsorted(np.cumsum(truth[text[-2], text[-1]]), draw)), vocab - 1))
    tokens, starts = np.array(text, np.uint16), np.array([0, len(text)])
    index = build_index(tmp_path / "index", tokens, starts, text="")
    recipe = Recipe(standard(64, 2, vocab, 64), steps=240, batch_size=16, muon_lr=0.03, adam_lr=0.01)
    trainer = Trainer(recipe, TinyText(tokens, starts, None, np.ones(vocab, np.uint16)))
    list(trainer)

    counted, said = np.zeros_like(truth), np.zeros_like(truth)
    often = np.zeros((vocab, vocab))
    for a, b in np.ndindex(vocab, vocab):
        following = index.next_counts([a, b])
        often[a, b] = following.total
        counted[a, b] = [following.of(c) / following.total for c in range(vocab)]
        places = np.flatnonzero((tokens[30:-1] == a) & (tokens[31:] == b))[:20] + 30  # with 30 tokens before them
        rows = torch.from_numpy(np.stack([tokens[place - 30 : place + 2] for place in places]).astype(np.int64))
        with torch.no_grad():
            said[a, b] = trainer.model()(rows)[:, -1].double().softmax(-1).mean(0).numpy()
    table = [
        f"{a} {b} {c}  {truth[a, b, c]:6.3f} {counted[a, b, c]:6.3f} {said[a, b, c]:6.3f}"
        for a, b, c in np.ndindex(truth.shape)
    ]
    print("\n".join(["a b c   truth  index  model", *table]))

    def divergence(of: Any) -> float:
        """Mean KL from the truth, in nats, over the contexts as they occur."""
        each = (truth * (np.log(truth) - np.log(np.maximum(of, 1e-9)))).sum(-1)
        return float((each * often).sum() / often.sum())

    first_order = np.broadcast_to(
        (truth * often[..., None]).sum(0, keepdims=True) / often.sum(0)[None, :, None], truth.shape
    )
    assert divergence(counted) < 1e-3
    assert divergence(said) < 0.01 < 0.1 * divergence(first_order)


# Induction written by hand

CIRCUIT = {Token(), Position(), Head(0, 0), Layer(0, "attention"), Read(0, 0, 5), Source(5)}  # where to look
CIRCUIT |= {Head(1, 0), Layer(1, "attention"), Read(1, 0, 2), Source(2)}  # what to say: the logit, whole


@pytest.mark.parametrize("ablation", [each for each in get_args(Ablation) if each != "none"])
def test_outside_hand_written_induction_every_attribution_is_0_and_ablating_it_changes_nothing(
    ablation: Ablation,
) -> None:
    recording = record(induction_model(), [1, 4, 7, 2, 5, 9, 4])
    assert int(recording.logits.argmax()) == 7
    attribution = attribute(recording, [Quantity(7)])[0]
    contributions = {
        component: contribution
        for granularity in get_args(Granularity)
        for component, contribution in attribution.contributions(granularity).items()
    }
    outside = [component for component in contributions if component not in CIRCUIT]
    assert len(outside) == 60
    for found in audit(recording, attribution, outside, ablation, reference=[3, 8, 6, 0, 3]).findings:
        figures = (found.claim, found.expected, found.measured, found.log_probability, found.estimated_effect)
        assert figures == (0, 0, 0, 0, 0), found.component
    listed = {component for component, contribution in contributions.items() if contribution}
    assert listed == {Head(1, 0), Layer(1, "attention"), Read(1, 0, 2), Source(2)}
    assert attribution.contribution(Head(1, 0)) == attribution.total


def test_without_all_that_stands_outside_hand_written_induction_every_logit_is_the_same() -> None:
    model, ids = induction_model(), torch.tensor([[1, 4, 7, 2, 5, 9, 4]])
    outside = [Scale(f"blocks.{layer}.attention.z", 0, unit=1) for layer in (0, 1)]
    outside += [Scale(f"blocks.{layer}.mlp", 0) for layer in (0, 1)]
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids, hook=EditHook(outside, 0)))
        for layer in (0, 1):
            without = EditHook([Scale(f"blocks.{layer}.attention.z", 0, unit=0)], 0)
            assert int(model(ids, hook=without)[0, -1].argmax()) != 7
