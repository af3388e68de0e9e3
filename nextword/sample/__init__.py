"""probabilities -> WORDS: settings, filters, the draw, stop strings, the loop, many texts at once, grammars.

In: logits and settings; out: sampled tokens, each with an account of its draw, and text. Torch and what looks inside a
model are never imported here.
"""
