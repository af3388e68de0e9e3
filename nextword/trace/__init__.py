"""words -> REASONS: recording, ledger, audit, lenses, interventions."""
