"""The connection to MLflow: client, store, SQLite file, UI server. For its runs, see `runs`."""
