"""The command line: one verb for each arrow between text, tokens, probabilities and words.

`root` says what holds for all verbs; the other modules hold the verbs, which help lists in the order of the data.
"""

# ruff: isort: skip_file
from nextword.cli.root import app, main
from nextword.cli import encode as tokens
from nextword.cli import generate as words
from nextword.cli import train as learning
from nextword.cli import counterfactual
from nextword.cli import explain as reasons
from nextword.cli import inspect as learned
from nextword.cli import manage as house
from nextword.cli import serve, parts, bench

__all__ = [
    "app",
    "bench",
    "counterfactual",
    "house",
    "learned",
    "learning",
    "main",
    "parts",
    "reasons",
    "serve",
    "tokens",
    "words",
]
