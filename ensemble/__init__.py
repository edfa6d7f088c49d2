"""Which tracked runs to combine per task; export, predict, serve."""
