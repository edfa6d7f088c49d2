"""Data sets: download, reading, validation; without tokens and batches."""
