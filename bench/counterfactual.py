"""Do cheap attributions predict the effect of training without some documents? The linear datamodeling score.

    python bench/counterfactual.py [--subsets 32] [--queries 12] [--seeds 3]

A tiny model is trained on all of a small text, and again and again on random halves of its groups of documents. For
each query (a prompt and its next token, from a document that no training reads) an attribution estimates the order of
these trainings by log p: the sum of the scores of the documents that were read. Its LDS is the rank correlation with
the measured log p, averaged over the queries (Park et al., 2023), with the mean over the seeds of each subset's
trainings as the truth.

    influence    gradients of document and query, over the run's checkpoints (nextword.trace.text.influence)
    counts       the number of times that the token stands in the document after the longest end of the prompt that any
                 document holds
    random       a control
    ceiling      a perfect estimate, scored by as few trainings; computed from the agreement of the seeds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from nextword.model.transformer import Transformer
from nextword.optimize.recipe import Recipe, standard
from nextword.optimize.trainer import Trainer
from nextword.trace.logit.audit import rank_correlation
from nextword.trace.text.influence import influences

Array = npt.NDArray[np.float64]

GROUPS, DOCUMENTS, LENGTH, VOCAB, FIRST = 16, 4, 64, 48, 8
STEPS, ROWS, CONTEXT = 120, 8, 32


class Text:
    """Documents of tokens, as a trainer reads them; those not kept are masked and hold only token 0."""

    def __init__(self, documents: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> None:
        self.tokens = np.where(kept[:, None], documents, 0).ravel()
        self.mask = np.broadcast_to(kept[:, None], documents.shape).astype(np.uint8).ravel()
        self.starts = np.arange(0, self.tokens.size + 1, documents.shape[1], dtype=np.int64)
        self.token_bytes = np.ones(VOCAB, np.int64)


def language(seed: int) -> npt.NDArray[np.int64]:
    """Documents [groups, n, length] of word pairs; each group prefers its own second word after every first one."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(GROUPS):
        preferred = random.integers(FIRST + 1, VOCAB, FIRST)
        for _ in range(DOCUMENTS + 1):
            first = random.integers(0, FIRST, LENGTH // 2)
            second = np.where(
                random.random(LENGTH // 2) < 0.6, preferred[first], random.integers(FIRST + 1, VOCAB, LENGTH // 2)
            )
            documents.append(np.stack([1 + first, second], axis=1).ravel())
    return np.array(documents).reshape(GROUPS, DOCUMENTS + 1, LENGTH)


def train(documents: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_], seed: int) -> list[Transformer]:
    """The models at four steps of a run, in their order."""
    recipe = Recipe(standard(32, 2, vocab=VOCAB, context=CONTEXT), STEPS, ROWS, seed=seed)
    trainer = Trainer(recipe, Text(documents, kept))
    models = []
    for progress in trainer:
        if (progress.step + 1) % (STEPS // 4) == 0:
            model = trainer.model()
            model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)
            models.append(model)
    return models


def log_p(model: Transformer, prompt: Sequence[int], token: int) -> float:
    with torch.no_grad():
        return float(model(torch.tensor([list(prompt)]))[0, -1].log_softmax(-1)[token])


def counts(documents: npt.NDArray[np.int64], prompt: Sequence[int], token: int) -> Array:
    """The scores of the attribution `counts`, float64 [documents]."""
    for length in range(len(prompt), 0, -1):
        wanted = [*prompt[-length:], token]
        windows = np.lib.stride_tricks.sliding_window_view(documents, len(wanted), axis=1)
        found: Array = (windows == wanted).all(-1).sum(-1).astype(np.float64)
        if found.any():
            return found
    return np.zeros(len(documents))


def ceiling(measured: Array) -> float:
    """The score of a perfect estimate of the mean over infinitely many seeds.

    measured is log p, float64 [subsets, seeds]. The correlation of single seeds gives the reliability of their mean
    (Spearman-Brown); the score is its root.
    """
    seeds = measured.shape[1]
    pairs = [rank_correlation(measured[:, a], measured[:, b]) for a, b in combinations(range(seeds), 2)]
    agree = max(float(np.mean(pairs)), 0.0)
    return float(np.sqrt(seeds * agree / (1 + (seeds - 1) * agree)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each subset")
    given = parser.parse_args()
    torch.set_num_threads(1)
    random, drawn = np.random.default_rng(1), language(0)
    documents, unread = drawn[:, :-1].reshape(-1, LENGTH), drawn[:, -1]
    group = np.repeat(np.arange(GROUPS), DOCUMENTS)
    subsets = [np.isin(group, random.permutation(GROUPS)[: GROUPS // 2]) for _ in range(given.subsets)]
    texts = [unread[random.integers(GROUPS), : 2 * random.integers(2, 12)] for _ in range(given.queries)]
    queries = [(ids[:-1].tolist(), int(ids[-1])) for ids in texts]

    whole = train(documents, np.ones(len(documents), bool), seed=0)
    rows = [row.tolist() for row in documents]
    measured = np.empty((given.subsets, given.seeds, given.queries))
    for i, j in np.ndindex(given.subsets, given.seeds):
        model = train(documents, subsets[i], seed=j)[-1]
        measured[i, j] = [log_p(model, *query) for query in queries]
    methods: dict[str, list[Array]] = {
        "influence, last checkpoint": [influences(whole[-1:], *query, rows) for query in queries],
        "influence, four checkpoints": [influences(whole, *query, rows) for query in queries],
        "counts": [counts(documents, *query) for query in queries],
        "random": [random.random(len(documents)) for _ in queries],
    }
    print("| attribution | LDS | lowest and highest query |\n| --- | --- | --- |")
    for name, scores in methods.items():
        estimated = np.array([[score[kept].sum() for score in scores] for kept in subsets])
        found = [rank_correlation(estimated[:, q], measured[:, :, q].mean(1)) for q in range(given.queries)]
        print(f"| {name} | {np.mean(found):.2f} | {min(found):.2f}, {max(found):.2f} |", flush=True)
    if given.seeds > 1:
        found = [ceiling(measured[:, :, q]) for q in range(given.queries)]
        print(f"| ceiling | {np.mean(found):.2f} | {min(found):.2f}, {max(found):.2f} |")


if __name__ == "__main__":
    main()
