"""Data as other people have it: read, understood, cut in splits, written as our files."""
