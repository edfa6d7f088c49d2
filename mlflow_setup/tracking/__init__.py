"""The connection to MLflow: client, store, SQLite file, UI server. Runs are not read here."""
