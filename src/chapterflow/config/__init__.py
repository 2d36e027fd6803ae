"""`params.yaml` and `datasets.yaml` -> settings."""
