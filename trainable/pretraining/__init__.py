"""Additional pre-training of an encoder by masked language modelling."""
