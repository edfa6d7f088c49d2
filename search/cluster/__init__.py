"""Clusters: slots for trials, cluster files checked, jobs submitted and followed."""
