"""Scoring on the held-out split: metrics, cost, and comparison with intervals."""
