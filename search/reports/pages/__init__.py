"""A report as plain data, and its output: an HTML page, Markdown, pictures."""
