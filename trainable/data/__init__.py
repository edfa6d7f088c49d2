"""Data sets: fetched, read, checked, held in memory. No tokens and no batches."""
