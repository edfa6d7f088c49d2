"""Commands for data and one model."""
