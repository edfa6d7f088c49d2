"""Registered models and the server of one. What a model computes is not here."""
