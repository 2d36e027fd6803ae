"""Data validation: arrays -> one row per example -> Great Expectations suite -> verdict."""
