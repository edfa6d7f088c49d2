"""The MLflow model registry, and a server for one model. What a model computes is not here."""
