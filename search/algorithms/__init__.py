"""Which settings to try next (Optuna) and which trials go on (rungs)."""
