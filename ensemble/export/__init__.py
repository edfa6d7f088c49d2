"""A choice written as a bundle with its card, and registered as a model."""
