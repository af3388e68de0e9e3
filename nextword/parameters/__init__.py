"""STORED WEIGHTS: safetensors, GGUF, model families, pull, export.

In: the name of a model, a folder or a file; out: an architecture, its weights as they are stored and its tokenizer,
or the same as files that others open. No torch and no engine are imported here, and no pickle is loaded.
"""
