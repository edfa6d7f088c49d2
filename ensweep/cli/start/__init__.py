"""Before the first run: what is installed, what can be set, what comes with us."""
