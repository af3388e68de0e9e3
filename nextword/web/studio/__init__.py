"""THE STUDIO: the page at `/`, its questions and their answers.

In: a question about a text, a model or a run; out: JSON for `static/`, which does no mathematics. OpenAI's protocol is
not imported here, but for the models and the lock that both share.
"""
