"""Predictions of a bundle for sentences and files, and their evaluation."""
