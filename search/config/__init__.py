"""The configuration of a sweep: space, budget, resources, packaged sweeps, and its validation."""
