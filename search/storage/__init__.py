"""A sweep's folder: its files, its history, stop requests, garbage collection."""
