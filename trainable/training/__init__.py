"""The training loop of a trial: learner, stages, optimizer, trainer, and its cost profile."""
