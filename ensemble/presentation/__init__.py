"""Presentation of a choice: JSON, sentences, tables, pictures."""
