"""weights + tokens -> PROBABILITIES: the engine's contract, the CPU engine, the torch engine, scoring.

In: an architecture, stored tensors and token ids; out: logits. No tokenizer and nothing that draws is imported here;
the engine speaks integers.
"""
