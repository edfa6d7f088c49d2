"""Studies: rows of recipes over seeds, compared."""
