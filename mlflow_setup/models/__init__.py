"""Registered models and the server that answers for one. What a model computes is not here."""
