"""Which settings to try next (Optuna), and which trials to stop early (rungs)."""
