"""Losses as pure functions of tensors, one module each, and the objective that sums them."""
