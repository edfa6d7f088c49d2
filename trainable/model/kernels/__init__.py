"""Faster implementations of the encoder's operations than transformers', with equal results."""
