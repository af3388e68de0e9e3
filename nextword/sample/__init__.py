"""probabilities -> WORDS: filters, the draw, stop strings, the generation loop, batches of texts, grammars.

In: logits or an engine, a prompt and settings; out: drawn tokens, each with the numbers that decided its draw, and
text. No torch, no file of weights, no server and nothing that explains is imported here.
"""
