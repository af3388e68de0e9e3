"""THE EQUATIONS: one architecture description, one Transformer, its memory and its probe points."""
