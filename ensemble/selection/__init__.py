"""Greedy selection, its scorers and rules, on arrays alone. Knows neither runs nor files."""
