"""Ray clusters: slots for trials, checks of cluster files, job submission."""
