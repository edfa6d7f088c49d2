"""Where results are tracked: the words used there, run records in, run records out."""
