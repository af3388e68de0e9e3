"""TOKENS -> LEARNED WEIGHTS: the order of the data, the objective, the optimizer, the recipe, the trainer."""
