"""text + budget -> A RUN: the corpus, the plan, the loop, the run's page, a run without a passage.

In: paths, minutes or steps; out: a run folder that can be resumed. Neither server nor command line is imported here.
"""
