"""Serving of a bundle over HTTP."""
