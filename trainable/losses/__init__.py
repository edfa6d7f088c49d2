"""Losses: one file per idea, pure functions of tensors."""
