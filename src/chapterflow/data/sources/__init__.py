"""One file per kind of source: what `params.yaml` describes -> canonical arrays in memory.

The file of the kind `tu-graphs` is `tu_graphs.py`; its `read(params, fetch)` gives the data.
"""
