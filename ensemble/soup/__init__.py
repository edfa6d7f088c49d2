"""Weights averaged over runs that began alike."""
