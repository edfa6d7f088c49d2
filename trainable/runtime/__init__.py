"""The process a trial runs in: threads, seeds, random states, precision, cache folder, stopping."""
