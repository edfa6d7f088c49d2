"""The candidates for membership: the pool, runs' predictions, screening, added prediction files."""
