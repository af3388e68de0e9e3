"""TOKENS -> LEARNED WEIGHTS: the order of the data, the objective, the optimizer, the recipe, the trainer.

In: a text of tokens, a recipe, or the state of a run; out: the progress of each step, and a state to go on from.
Nothing that stores weights is imported here: whoever trains saves.
"""
