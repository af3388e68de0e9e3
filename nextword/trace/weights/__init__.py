"""WHAT WEIGHTS SAY ALONE: tokens in an embedding, heads and neurons, bigrams from embedding to unembedding.

In: a Transformer; out: tables of tokens and scores. Nothing here depends on the recording of a prompt, and none is
taken.
"""
