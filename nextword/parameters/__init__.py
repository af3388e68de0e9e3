"""STORED WEIGHTS: safetensors, GGUF, model families, pull, export."""
