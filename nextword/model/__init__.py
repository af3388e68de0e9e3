"""THE EQUATIONS: one architecture description, one Transformer, its KV cache and its hook points.

In: an architecture, weights, token ids; out: logits, and every activation on the way. No tokenizer, file format or
model family is imported here, and `architecture` needs no torch.
"""
