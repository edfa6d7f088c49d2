"""Sweeps, trials and ensembles as MLflow runs: written as projections, read by queries."""
