"""words -> REASONS: recordings, attributions, audits, lenses, interventions, receipts.

In: a model, token ids, an indexed text; out: numbers, sentences and JSON that say why a token. Nothing of the facade,
of training or of a server is imported here.
"""
