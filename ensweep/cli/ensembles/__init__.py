"""Commands for ensembles and bundles."""
