"""Dev predictions and metrics of a model, and embeddings that are computed once."""
