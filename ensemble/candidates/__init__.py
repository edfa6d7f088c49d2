"""The runs that may become members: pool, predictions, screening, added files."""
