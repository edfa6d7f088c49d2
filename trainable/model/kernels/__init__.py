"""The encoder's operations computed otherwise than by transformers, with equal values."""
