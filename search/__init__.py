"""Configurations to try, the sweep that runs them, and its results."""
