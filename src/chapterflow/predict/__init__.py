"""Batch prediction: many inputs, one registered model, one table."""
