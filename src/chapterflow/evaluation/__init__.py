"""Scoring on the test split: metrics, cost, and comparison with intervals."""
