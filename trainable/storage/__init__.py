"""A trial's folder on disk: records, checkpoints, predictions, what is kept."""
