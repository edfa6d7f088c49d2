"""The training loop: learner, stages, optimizer, gradient cache, and its profile."""
