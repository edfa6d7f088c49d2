"""Greedy selection, its scorers and the rules. Works on arrays only, without runs or files."""
