"""weights + tokens -> PROBABILITIES: the engine's contract, the choice of an engine, PyTorch's, scoring.

In: an architecture, stored tensors, token ids; out: logits. No tokenizer is imported here: an engine speaks integers.
"""
