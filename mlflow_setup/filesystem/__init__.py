"""Files written whole or not at all, manifests of folders, safe paths. Knows no MLflow."""
