"""probabilities -> WORDS: filters, the draw, stop strings, the generation loop, many texts at once.

In: logits, settings, a seed; out: tokens with the account of each draw, and text. No torch and nothing of HTTP is
imported here.
"""
