"""Before a sweep: checks, probes of the nodes, a forecast."""
