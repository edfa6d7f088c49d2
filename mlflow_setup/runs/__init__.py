"""Sweeps, trials and ensembles as MLflow runs: writing, querying and deleting them."""
