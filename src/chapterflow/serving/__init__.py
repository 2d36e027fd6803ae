"""A registered model behind MLflow's scoring server on 127.0.0.1."""
