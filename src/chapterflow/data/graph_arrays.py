"""Lists of graphs -> flat arrays with offsets, and splits that keep equal graphs together."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError

#: Code in `split.npy` of a node that is in no split.
NO_SPLIT = len(SPLITS)


def offsets(sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where each part of a flat array begins, and the end: `(n + 1,)`."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def sorted_edges(edges: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return edges `(m, 2)` in ascending order, each once, without self-loops."""
    edges = np.unique(np.asarray(edges, np.int32).reshape(-1, 2), axis=0)
    loops: NDArray[np.bool_] = edges[:, 0] == edges[:, 1]
    return np.ascontiguousarray(edges[~loops])


def both_ways(edges: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return undirected edges with each listed both ways, sorted."""
    return sorted_edges(np.concatenate([edges, edges[:, ::-1]]))


def content_hash(features: NDArray[np.float32], edges: NDArray[np.int32]) -> str:
    """Return a hash of one graph; it depends on the numbering of nodes, not on that of edges."""
    edges = np.asarray(edges, np.int32)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    digest = hashlib.blake2b(repr(features.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(features, np.float32).tobytes())
    digest.update(np.ascontiguousarray(edges[order]).tobytes())
    return digest.hexdigest()


def grouped_split(
    labels: NDArray[np.uint8],
    contents: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.uint8]:
    """Assign every example to a split as `stratified_split` does, equal ones to the same split.

    Args:
        labels: `(n,)` class numbers.
        contents: Hash of each example; copies of one get into the split of the first of them.

    Raises:
        DataError: If the shares leave too little for one example of each class.
    """
    _, first, group = np.unique(np.asarray(contents), return_index=True, return_inverse=True)
    # In the order of the data, so that the draw does not depend on how hashes sort.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    drawn = stratified_split(labels[first[order]], validation=validation, test=test, seed=seed)
    return drawn[rank[group]]


def check_counts(name: str, received: int, expected: int, of: str) -> None:
    """Raise a `DataError` where a file has another number of lines than there are things."""
    if received != expected:
        raise DataError(
            f"{name} must have {expected:,} lines, one for each {of}. Received: {received:,}"
        )
