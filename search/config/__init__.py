"""What a sweep is: space, budget, resources, packaged sweeps, and which settings go together."""
