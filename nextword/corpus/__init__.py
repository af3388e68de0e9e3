"""TEXT: documents with their provenance, and small languages whose truth is known."""
