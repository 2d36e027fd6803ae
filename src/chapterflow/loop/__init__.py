"""The loop: the run, its steps, and what `dvc.yaml` calls."""
