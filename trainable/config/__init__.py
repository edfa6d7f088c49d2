"""Settings of a trial: sections, tasks, recipes, strict YAML, and rules across settings."""
