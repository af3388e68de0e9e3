"""The command line: one verb for each arrow between text, tokens, probabilities and words.

`root` says what holds for all verbs; the other modules hold the verbs, which help lists in the order of the data.
"""

# ruff: isort: skip_file
from nextword.cli.root import app, main
from nextword.cli import tokens, words, serve, learning, reasons, parts, learned, house, bench

__all__ = ["app", "bench", "house", "learned", "learning", "main", "parts", "reasons", "serve", "tokens", "words"]
