"""MLflow: the store, runs and their lineage, models and their registry."""
