"""The encoder's operations in faster forms than transformers', with equal values."""
