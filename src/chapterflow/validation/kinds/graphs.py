"""Many graphs: one row for each, and what must hold for features, edges and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, DatasetCard
from chapterflow.data.graph_arrays import content_hash
from chapterflow.errors import DataError
from chapterflow.validation.checks import check
from chapterflow.validation.graph_checks import (
    check_arrays,
    edge_checks,
    edge_faults,
    feature_checks,
)
from chapterflow.validation.rows import example_rows
from chapterflow.validation.suite import copy_checks, count_checks, label_checks

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings.bounds_graphs import GraphExpectations


def expectations(card: DatasetCard, bounds: GraphExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet."""
    nodes = card.facts["nodes"]
    return [
        *count_checks(card),
        check(
            "ExpectColumnSumToBeBetween",
            "nodes",
            f"{nodes:,} nodes",
            "All the nodes of the dataset card are there: nothing was lost or added on the way.",
            column="nodes",
            min_value=nodes,
            max_value=nodes,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "not-empty",
            "at least 1 node",
            "Every graph has a node: of none, there is nothing to read out.",
            column="nodes",
            min_value=1,
        ),
        *edge_checks(card),
        check(
            "ExpectColumnValuesToBeBetween",
            "isolated",
            f"at most {bounds.isolated:.2%} of the nodes",
            "Few nodes of a graph have no edge: many mean that edges were lost.",
            column="isolated",
            max_value=bounds.isolated,
            # Single graphs of a large set may be odd.
            mostly=0.99,
        ),
        *feature_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        *copy_checks(bounds.duplicates),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every graph of the arrays that training reads.

    Returns:
        A frame of n rows with the columns of `example_rows`, `label`, `nodes`, `edges`, the
        numbers of edges of each fault of `edge_faults` (`dangling`, `self_loops`, `repeated`,
        `one_way`), `isolated` (share of nodes without an edge), `width`, `dtype`, `nan` (features
        that are not finite), `largest` (largest absolute feature) and `content_hash` (features
        and edges).

    Raises:
        DataError: If the arrays are not numbers of their shapes, or offsets do not fit them.
    """
    check_arrays(dataset, "graph")
    begins = {name: _offsets(dataset, name) for name in ("node", "edge")}
    features, edges = dataset.arrays["features"], dataset.arrays["edges"]
    facts = [
        _facts(
            np.asarray(features[begins["node"][graph] : begins["node"][graph + 1]]),
            np.asarray(edges[begins["edge"][graph] : begins["edge"][graph + 1]]),
        )
        for graph in range(dataset.count)
    ]
    columns: dict[str, Any] = {
        "label": np.asarray(dataset.labels),
        "width": features.shape[1],
        "dtype": str(features.dtype),
        **{name: [fact[name] for fact in facts] for name in facts[0]},
    }
    return example_rows(dataset.split, columns)


def _facts(features: NDArray[Any], edges: NDArray[Any]) -> dict[str, Any]:
    nodes = len(features)
    faults = edge_faults(edges, nodes)
    joined = np.unique(edges[~faults["dangling"] & ~faults["self_loop"]])
    finite = np.isfinite(features)
    return {
        "nodes": nodes,
        "edges": len(edges),
        "dangling": int(faults["dangling"].sum()),
        "self_loops": int(faults["self_loop"].sum()),
        "repeated": int(faults["repeated"].sum()),
        "one_way": int(faults["one_way"].sum()),
        "isolated": 1 - len(joined) / nodes if nodes else 0.0,
        "nan": int(features.size - finite.sum()),
        "largest": float(np.abs(features[finite]).max(initial=0.0)),
        "content_hash": content_hash(features, edges),
    }


def _offsets(dataset: Dataset, name: str) -> NDArray[np.int64]:
    begins = np.asarray(dataset.arrays[f"{name}_offsets"])
    end = len(dataset.arrays["features" if name == "node" else "edges"])
    if (
        begins.dtype.kind not in "iu"
        or begins.shape != (dataset.count + 1,)
        or begins[0] != 0
        or begins[-1] != end
        or (np.diff(begins) < 0).any()
    ):
        raise DataError(
            f"{dataset.folder}: {name}_offsets must rise from 0 to {end:,} in "
            f"{dataset.count + 1:,} whole numbers. Received: {begins.dtype} {begins.shape}, "
            f"from {begins[:1].tolist()} to {begins[-1:].tolist()}"
        )
    return begins
