"""THE EQUATIONS: one architecture description, one Transformer, its memory and its hook points."""
