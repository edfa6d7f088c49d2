"""Predictions and metrics of a model, and the cache of sentence embeddings."""
