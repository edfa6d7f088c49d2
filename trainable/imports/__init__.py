"""Import of a user's own data: read, its columns found, cut in splits, written as our files."""
