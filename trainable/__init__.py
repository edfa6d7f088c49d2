"""One trial: data, model, losses, training, evaluation, and its folder on disk."""
