"""Distillation of an ensemble into one model, and ensembles as teachers of other trials."""
