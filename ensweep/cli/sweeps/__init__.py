"""Commands for sweeps and studies."""
