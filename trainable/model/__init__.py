"""The multitask model: encoder, pooling and heads, without losses."""
