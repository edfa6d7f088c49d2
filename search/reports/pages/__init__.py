"""A report as plain data, and as the files that it becomes: a page, Markdown, pictures."""
