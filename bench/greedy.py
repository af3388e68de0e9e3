"""Whether rounded weights generate the reference model's greedy texts, token by token.

    python bench/greedy.py [MODEL] [--weights int8]

The CPU engine generates 64 tokens after each of 20 prompts, greedily; then the reference model (float32, the weights
as stored) reads the same texts. The largest change of a difference of two logits by rounding is stated beforehand, as
measured on the calibration text. Where the reference model's top-1 token leads by more than that, both must have the
same top-1 token.
"""

from __future__ import annotations

import argparse

import numpy as np

import nextword
from nextword.api import CALIBRATION_TEXT
from nextword.parameters.open import open_stored
from nextword.predict.torch_engine import TorchEngine

TOKENS = 64
PROMPTS = (
    "Once upon a time",
    "The king looked out of the window and",
    "There was an old woman who lived",
    "In the middle of the forest stood",
    '"Where are you going?" asked the fox.',
    "The sea was calm that morning, and the boat",
    "My brother and I had never",
    "It began to rain just as",
    "The capital of France is",
    "Water boils when",
    "She opened the letter. It said:",
    "1, 2, 3, 4,",
    "The most important thing about friendship is",
    "Dear Sir,",
    "The dog ran after the cat, and the cat ran after",
    "When the war was over, the soldiers",
    "A recipe for bread: take",
    "He counted his money twice and found",
    "The stars are",
    "Nobody knew why the bell",
)


def spread(change: np.ndarray) -> float:
    """The largest change of a difference of two logits of one row; change: [rows, vocab]."""
    return float((change.max(1) - change.min(1)).max())


def main() -> None:
    """Print what was found, as a row of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--weights", default="int8")
    given = parser.parse_args()
    stored = open_stored(given.model)
    reference_model = TorchEngine(stored.architecture, stored.tensors)
    gpt = nextword.open(given.model, device="cpu", weights=given.weights)

    def change(ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        exact, ours = reference_model.open_session().feed_all(ids), gpt.engine.open_session().feed_all(ids)
        return exact, ours, ours - exact

    stated = spread(change(gpt.encode(CALIBRATION_TEXT))[2])
    n = same = sure = same_and_sure = 0
    largest = 0.0
    for prompt in PROMPTS:
        ids = gpt.tokenizer.encode_prompt(prompt)
        session = gpt.engine.open_session()
        logits = session.feed(ids)
        text = []
        for _ in range(TOKENS):
            text.append(int(logits.argmax()))
            logits = session.feed(text[-1:])
        exact = reference_model.open_session().feed_all([*ids, *text])[len(ids) - 1 : -1]
        second, first = np.sort(exact, axis=1)[:, -2:].T
        equal, leads = exact.argmax(1) == text, first - second
        n, same = n + TOKENS, same + int(equal.sum())
        sure, same_and_sure = sure + int((leads > stated).sum()), same_and_sure + int((equal & (leads > stated)).sum())
        largest = max(largest, float(leads[~equal].max(initial=0)))
    print(
        "| model, weights | stated change | tokens | the same | led by more | of those the same | largest lead lost |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {given.model}, {given.weights} | {stated:.3f} | {n} | {same} | {sure} | {same_and_sure} | {largest:.3f} |"
    )


if __name__ == "__main__":
    main()
