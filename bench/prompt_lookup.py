"""Prompt lookup on and off: `python bench/prompt_lookup.py [MODEL]`; the default model is smollm2.

Tokens/s with guesses over tokens/s without, on the CPU engine, 100 tokens, in turns: the median of five seeds.
"""

import statistics
import sys

import nextword
from nextword.predict.cpu.engine import CpuSession
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling

LIST = "- apple: 3 coins\n- pear: 4 coins\n- plum: 5 coins\n- cherry: 6 coins\n- grape: 7 coins\n- melon: 8 coins\n"
PROMPTS = {
    "a list repeated": f"Fruits and prices:\n{LIST}\nThe same list again:\nFruits and prices:\n- apple: 3 coins\n",
    "a story": "Once upon a time",
}
SAMPLING = {"greedy": Sampling(temperature=0), "default": DEFAULT_SAMPLING}


def main() -> None:
    gpt = nextword.open(sys.argv[1] if len(sys.argv) > 1 else "smollm2", device="cpu")
    for prompt, text in PROMPTS.items():
        for how, sampling in SAMPLING.items():
            ratios = []
            for seed in range(5):
                speed = {}
                for on in (True, False) if seed % 2 else (False, True):
                    CpuSession.batch_invariant = on  # without it no guess is made
                    written = gpt.generate(text, max_tokens=100, sampling=sampling, seed=seed).finish()
                    speed[on] = written.tokens_per_second
                ratios.append(speed[True] / speed[False])
            print(f"{prompt:16} {how:8} {statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
