"""The command line: parses, calls, prints. A file per noun; heavy imports inside the commands."""
