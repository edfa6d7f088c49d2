"""Export of a choice: the bundle with its card, the model registry, the Hugging Face hub."""
