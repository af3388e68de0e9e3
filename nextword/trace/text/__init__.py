"""WHAT THE TEXT SAYS: passages like a prompt's end, the steps that read them, when a token was learned.

In: an indexed text, a run's checkpoints; out: counts, places, steps. Nothing that draws or shows is imported here.
"""
