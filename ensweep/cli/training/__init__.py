"""Commands for data, and for training one model."""
