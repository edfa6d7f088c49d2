"""A trial's folder on disk: records, checkpoints, predictions, kept weights."""
