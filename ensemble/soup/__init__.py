"""Model soups: averaged weights of runs with the same initialisation."""
