"""A sweep's folder: history, lease, what is deleted."""
