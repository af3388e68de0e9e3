"""WHAT WEIGHTS SAY ALONE: tokens in an embedding, heads and neurons, bigrams from embedding to unembedding.

In: a Transformer; out: tables of tokens and scores. No recording of a prompt is needed, and nothing that
makes one is imported here.
"""
