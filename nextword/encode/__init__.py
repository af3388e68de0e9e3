"""text -> TOKENS: ids and back, with every model's own tokenizer, and corpora as token shards on disk.

In: text, documents, or a tokenizer's files; out: ids, text, and memory-mapped shards of tokens. No weights, no torch
and nothing of the model are imported here.
"""
