"""The command line: parses, calls, prints. Slow imports are inside the commands."""
