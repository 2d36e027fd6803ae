"""One file per source: a block of `params.yaml` -> canonical arrays in memory.

The file of the source `random-graphs` is `random_graphs.py`; it ends with its `Source`.
"""
