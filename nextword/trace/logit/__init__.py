"""WHY A LOGIT: attribution to components, the audit that ablates them, lenses, the graph of paths.

In: a Transformer, a prompt's ids, a recording; out: exact sums, measured effects, graphs. No text, tokenizer or file is
imported here.
"""
