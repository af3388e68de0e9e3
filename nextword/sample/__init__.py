"""probabilities -> WORDS: filters, the draw, stop strings, the generation loop."""
