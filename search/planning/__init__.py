"""Planning a sweep: checks, probes of the nodes, a forecast of time and cost."""
