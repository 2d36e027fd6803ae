"""One graph whose nodes are the examples, each with one class.

`labels` and `split` uint8 `(n,)`, where split code 3 means no split; `features` float32 `(n, f)`;
`edges` int32 `(edges, 2)`, source and target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, Kind, Split
from chapterflow.kinds.edges import (
    NO_SPLIT,
    GraphExpectations,
    check_arrays,
    edge_checks,
    edge_faults,
    feature_checks,
    padded,
    sorted_edges,
)
from chapterflow.kinds.rows import (
    UNKNOWN_SPLIT,
    check,
    copy_checks,
    count_checks,
    example_rows,
    label_checks,
)
from chapterflow.language import message

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class Data(Dataset):
    """The whole graph in, class numbers of nodes out."""

    ARRAYS = ("labels", "split")
    MORE_ARRAYS = ("features", "edges")

    @classmethod
    def expected_count(cls, card: DatasetCard) -> int:
        """Return the number of nodes, including those in no split."""
        return int(card.facts["nodes"])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return `features` `(n, f)` and `edges` `(e, 2)` of the whole graph.

        Models read all nodes, whichever are chosen, because a node's class depends on its
        neighbours. Edges are int32, source and target, sorted, without self-loops. `sparse_inputs`
        of `chapterflow.training.batches` returns the same graph with sparse features.
        """
        return {
            "features": np.asarray(self.arrays["features"]),
            "edges": sorted_edges(np.asarray(self.arrays["edges"])),
        }

    def example(self) -> Any:
        """Return the first eight nodes in the form of `served_shapes`: all would take megabytes."""
        whole = self.inputs(self.indices("train"))
        edges = whole["edges"]
        few = {"features": whole["features"][:8], "edges": edges[(edges < 8).all(axis=1)]}
        return padded(few)

    def input_shapes(self) -> Any:
        """Return shape and dtype of each input."""
        return {
            "features": ((None, self.arrays["features"].shape[1]), "float32"),
            "edges": ((None, 2), "int32"),
        }

    @classmethod
    def served_shapes(cls, card: DatasetCard) -> dict[str, tuple[int | None, ...]]:
        """Return the shapes of a graph with its adjacency matrix."""
        return {"features": (None, card.shape[-1]), "adjacency": (None, None)}

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of the whole graph, and the positions and classes of the scored nodes."""
        chosen = self.indices(split)
        yield np.ascontiguousarray(self.arrays["features"]).tobytes()
        yield np.ascontiguousarray(self.arrays["edges"]).tobytes()
        yield chosen.astype(np.int64).tobytes()
        yield self.targets(chosen).tobytes()


#: Split name, in the rows, of nodes in no split.
NONE = "none"


def expectations(card: DatasetCard, bounds: GraphExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet."""
    nodes = card.facts["nodes"]
    # Three checks differ from other kinds: nodes may be in no split, and published splits, which
    # nobody changes, may contain copies.
    counts = [c for c in count_checks(card) if c.meta["name"] not in ("count", "split-names")]
    copies = [c for c in copy_checks(bounds.duplicates) if c.meta["name"] != "one-split"]
    return [
        check(
            "ExpectTableRowCountToEqual",
            "count",
            f"{nodes:,} nodes",
            "The number of nodes equals the dataset card's: none was lost or added.",
            value=nodes,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "split-names",
            ", ".join([*SPLITS, NONE]),
            "Every node belongs to a known split or to none: other codes are errors.",
            column="split",
            values_named=True,
            value_set=[*SPLITS, NONE],
        ),
        *counts,
        *edge_checks(card),
        check(
            "ExpectColumnMeanToBeBetween",
            "isolated",
            f"at most {bounds.isolated:.2%} of the nodes",
            "Few nodes have no edge: many isolated nodes mean that edges were lost.",
            setting="isolated",
            column="isolated",
            max_value=bounds.isolated,
        ),
        *feature_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        check(
            "ExpectColumnValuesToBeInSet",
            "one-split",
            f"at most {bounds.duplicates:.2%} have a copy in another split",
            "Few nodes have the same features and neighbours as a node of another split, which "
            "would reward memorization in the test score. Published splits contain some.",
            setting="duplicates",
            column="in_other_split",
            value_set=[False],
            mostly=1 - bounds.duplicates,
        ),
        *copies,
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every node of the arrays that training reads.

    Returns:
        A frame of n rows with the columns of `example_rows`; `label`; `edges` (number of edges
        that start at the node) and their number with each fault of `edge_faults` (an edge without
        a valid start counts for the first node); `isolated` (1 if the node has no edge, else 0);
        `width`, `dtype`, `nan` (number of features that are not finite), `largest` (largest
        absolute feature) and `content_hash` (hash of features and neighbours). Nodes in no split
        have the split `none` and are not copies of other nodes.

    Raises:
        DataError: If an array has the wrong dtype or shape.
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
    table = example_rows(split, columns)
    outside = split == NO_SPLIT
    for column in ("split", "id"):
        table.loc[outside, column] = table.loc[outside, column].str.replace(UNKNOWN_SPLIT, NONE)
    return table


def _contents(
    features: NDArray[Any], edges: NDArray[Any], begin: NDArray[Any], split: NDArray[Any]
) -> list[str]:
    """Return a hash of each node's features and neighbours; unique for nodes in no split."""
    order = np.lexsort((edges[:, 1], begin))
    neighbours = np.split(edges[order, 1], np.cumsum(np.bincount(begin, minlength=len(features))))
    hashes = []
    for node, row in enumerate(np.ascontiguousarray(features)):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16)
        digest.update(neighbours[node].tobytes())
        hashes.append(digest.hexdigest() if split[node] != NO_SPLIT else f"{NONE}-{node}")
    return hashes


def _edges_out(dataset: Dataset, position: int) -> int:
    return int((np.asarray(dataset.arrays["edges"])[:, 0] == position).sum())


KIND = Kind(
    "citations",
    Data,
    GraphExpectations,
    rows,
    expectations,
    look="graph",
    file=None,
    whole=True,
    # There is only one graph; its nodes are no separate inputs.
    figures={},
    columns={message("edges out"): _edges_out},
)
