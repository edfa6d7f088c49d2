"""The multitask model: encoder, pooling, heads. Losses are not here."""
