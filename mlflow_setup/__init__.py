"""MLflow tracking, file storage, and the record schema that the other packages share."""
