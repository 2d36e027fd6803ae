"""One graph of many nodes: one row for each node, and what must hold for it and its edges."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS, Dataset, DatasetCard
from chapterflow.data.graph_arrays import NO_SPLIT
from chapterflow.errors import DataError
from chapterflow.validation.checks import check
from chapterflow.validation.graph_checks import (
    check_arrays,
    edge_checks,
    edge_faults,
    feature_checks,
)
from chapterflow.validation.rows import UNKNOWN_SPLIT, example_rows
from chapterflow.validation.suite import copy_checks, count_checks, label_checks

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings.bounds_graphs import GraphExpectations

#: Name, in the rows, of what is in no split.
NONE = "none"


def expectations(card: DatasetCard, bounds: GraphExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet."""
    nodes = card.facts["nodes"]
    # Nodes may be in no split here, and nobody moves those of a published split, so three checks
    # differ from those of other kinds.
    counts = [c for c in count_checks(card) if c.meta["name"] not in ("count", "split-names")]
    copies = [c for c in copy_checks(bounds.duplicates) if c.meta["name"] != "one-split"]
    return [
        check(
            "ExpectTableRowCountToEqual",
            "count",
            f"{nodes:,} nodes",
            "All the nodes of the dataset card are there: nothing was lost or added on the way.",
            value=nodes,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "split-names",
            ", ".join([*SPLITS, NONE]),
            "Every node belongs to a known split or to none: a wrong code would drop it.",
            column="split",
            value_set=[*SPLITS, NONE],
        ),
        *counts,
        *edge_checks(card),
        check(
            "ExpectColumnMeanToBeBetween",
            "isolated",
            f"at most {bounds.isolated:.2%} of the nodes",
            "Few nodes have no edge: many mean that edges were lost.",
            column="isolated",
            max_value=bounds.isolated,
        ),
        *feature_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        check(
            "ExpectColumnValuesToBeInSet",
            "one-split",
            f"at most {bounds.duplicates:.2%} have a copy in another split",
            "Few nodes of one split have the features and neighbours of a node of another: the "
            "test score would reward memory. Published splits hold some.",
            column="in_other_split",
            value_set=[False],
            mostly=1 - bounds.duplicates,
        ),
        *copies,
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every node of the arrays that training reads.

    Returns:
        A frame of n rows with the columns of `example_rows`, where nodes of no split are called
        `none` and are nobody's copy; `label`; of the edges that begin at the node their number
        `edges` and the numbers of each fault of `edge_faults` (an edge that begins at no node is
        counted at the first one); `isolated` (1 where it has no edge, else 0); `width`, `dtype`,
        `nan` (features that are not finite), `largest` (largest absolute feature) and
        `content_hash` (features and neighbours).

    Raises:
        DataError: If the arrays are not numbers of their shapes.
    """
    check_arrays(dataset, "node")
    features = np.asarray(dataset.arrays["features"])
    edges = np.asarray(dataset.arrays["edges"])
    nodes = len(features)
    if not len(dataset.labels) == dataset.count == nodes:
        raise DataError(
            f"{dataset.folder}: features, labels and split must be equally long. "
            f"Received: {nodes}, {len(dataset.labels)}, {dataset.count}"
        )
    split = np.asarray(dataset.split)
    faults = edge_faults(edges, nodes)
    begin = np.where((edges[:, 0] >= 0) & (edges[:, 0] < nodes), edges[:, 0], 0)
    joined = np.unique(edges[~faults["dangling"] & ~faults["self_loop"]])
    isolated = np.ones(nodes)
    isolated[joined] = 0
    finite = np.isfinite(features)
    counts = {name: np.bincount(begin[wrong], minlength=nodes) for name, wrong in faults.items()}
    columns: dict[str, Any] = {
        "label": np.asarray(dataset.labels),
        "edges": np.bincount(begin, minlength=nodes),
        "dangling": counts["dangling"],
        "self_loops": counts["self_loop"],
        "repeated": counts["repeated"],
        "one_way": counts["one_way"],
        "isolated": isolated,
        "width": features.shape[1],
        "dtype": str(features.dtype),
        "nan": features.shape[1] - finite.sum(axis=1),
        "largest": np.where(finite, np.abs(features), 0).max(axis=1),
        "content_hash": _contents(features, edges, begin, split),
    }
    found = example_rows(split, columns)
    outside = split == NO_SPLIT
    for column in ("split", "id"):
        found.loc[outside, column] = found.loc[outside, column].str.replace(UNKNOWN_SPLIT, NONE)
    return found


def _contents(
    features: NDArray[Any], edges: NDArray[Any], begin: NDArray[Any], split: NDArray[Any]
) -> list[str]:
    """Return a hash of each node: features and neighbours; nodes of no split have their own."""
    order = np.lexsort((edges[:, 1], begin))
    neighbours = np.split(edges[order, 1], np.cumsum(np.bincount(begin, minlength=len(features))))
    hashes = []
    for node, row in enumerate(np.ascontiguousarray(features)):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16)
        digest.update(neighbours[node].tobytes())
        hashes.append(digest.hexdigest() if split[node] != NO_SPLIT else f"{NONE}-{node}")
    return hashes
