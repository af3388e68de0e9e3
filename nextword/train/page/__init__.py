"""A run as one HTML file: its curves, samples and settings.

In: the card and the log of a run folder; out: `page.html`. Nothing that trains is imported here.
"""
