"""Comparisons with peers, costs and growth: `python -m benchmarks --help`; not part of tests."""
