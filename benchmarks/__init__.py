"""Comparisons with peers and costs, run by hand or by `make bench`; never part of the tests."""
