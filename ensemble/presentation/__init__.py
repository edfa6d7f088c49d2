"""A choice shown to people: JSON, sentences, tables, pictures."""
