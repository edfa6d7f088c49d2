"""Settings of a trial: sections, tasks, recipes, strict YAML, and which settings go together."""
