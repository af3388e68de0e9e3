"""weights + tokens -> PROBABILITIES: the engine's contract, its torch implementation, scoring."""
