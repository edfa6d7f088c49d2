"""Commands that choose, export, run and serve ensembles."""
