"""tokens -> LEARNED WEIGHTS: the order of the data, the objective, the optimizer, the recipe, the trainer.

In: token shards and a recipe; out: steps, states and a forecast. Nothing that knows stored models or run folders is
imported here.
"""
