"""Atomic writes, manifests, leases, safe paths, and storage in object stores. No MLflow here."""
