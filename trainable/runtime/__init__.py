"""The process that a trial runs in: threads, seeds, precision, cache folder, progress, stopping."""
