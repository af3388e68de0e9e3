"""TEXT: documents with their provenance, and small languages whose truth is known.

In: paths, or the name of a language; out: a stream of documents and a report of what was read, and an index that
finds any passage of a text. Nothing of nextword but `base` and its errors is imported here: no tokenizer, no model.
"""
