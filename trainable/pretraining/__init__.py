"""Additional masked-language-model pre-training of an encoder."""
