"""The command line: one verb for each arrow between text, tokens, probabilities and words.

In: what is typed; out: text, JSON and exit codes. It stands on top of all other folders, and none of them imports it;
what a verb needs is imported by the verb. `root` says what holds for all verbs; help lists them in the order of the
data.
"""

# ruff: isort: skip_file
from nextword.cli.root import app, main
from nextword.cli import encode, generate, serve, train, counterfactual, explain, inspect, history, manage, bench

__all__ = [
    "app",
    "bench",
    "counterfactual",
    "encode",
    "explain",
    "generate",
    "history",
    "inspect",
    "main",
    "manage",
    "serve",
    "train",
]
