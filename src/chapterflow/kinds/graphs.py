"""Many graphs of different sizes, each with one class.

`labels` and `split` uint8 `(n,)`. All graphs are concatenated: `features` float32 `(nodes, f)` and
`edges` int32 `(edges, 2)`, source and target, numbered from 0 in each graph. `node_offsets` and
`edge_offsets` int64 `(n + 1,)` are the positions where the graphs begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset, DatasetCard, Kind, Split
from chapterflow.kinds.edges import (
    GraphExpectations,
    check_arrays,
    content_hash,
    edge_checks,
    edge_faults,
    feature_checks,
    offsets,
    padded,
    rows_of,
)
from chapterflow.kinds.rows import check, copy_checks, count_checks, example_rows, label_checks
from chapterflow.language import message

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class Data(Dataset):
    """Features, edges and sizes in, class numbers out."""

    ARRAYS = ("labels", "split")
    MORE_ARRAYS = ("features", "edges", "node_offsets", "edge_offsets")

    @cached_property
    def _edges(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Edges `(e, 2)` and where those of each graph begin.

        They are sorted in each graph, each once, without self-loops. Sources write them like that,
        so usually these are the arrays on disk.
        """
        edges = np.asarray(self.arrays["edges"])
        begins = np.asarray(self.arrays["edge_offsets"], np.int64)
        if _in_order(edges, begins):
            return edges, begins
        graph = np.repeat(np.arange(self.count), np.diff(begins))
        rows = np.unique(np.column_stack([graph, edges]), axis=0)
        rows = rows[rows[:, 1] != rows[:, 2]]
        counts = np.bincount(rows[:, 0], minlength=self.count)
        return np.ascontiguousarray(rows[:, 1:], np.int32), offsets(counts)

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return the b chosen graphs joined to one of n nodes: its cost grows with its edges.

        Returns:
            `features` float32 `(n, f)`; `edges` int32 `(e, 2)`, source and target, sorted, without
            self-loops; `sizes` int32 `(b,)`, the nodes of each graph.
        """
        nodes = np.asarray(self.arrays["node_offsets"])
        edges, begins = self._edges
        sizes, counts = (x[chosen + 1] - x[chosen] for x in (nodes, begins))
        pairs = edges[rows_of(begins[chosen], counts)].astype(np.int32, copy=False)
        # In its own memory: a copy in int64 would take twice as much as the edges.
        pairs += np.repeat(offsets(sizes)[:-1].astype(np.int32), counts)[:, np.newaxis]
        features = np.asarray(self.arrays["features"])[rows_of(nodes[chosen], sizes)]
        return {
            "features": np.asarray(features, np.float32),
            "edges": pairs,
            "sizes": sizes.astype(np.int32),
        }

    def input_shapes(self) -> Any:
        """Return shape and dtype of each input."""
        return {
            "features": ((None, self.arrays["features"].shape[1]), "float32"),
            "edges": ((None, 2), "int32"),
            "sizes": ((None,), "int32"),
        }

    def example(self) -> Any:
        """Return two graphs in the form of `served_shapes`."""
        return padded(super().example())

    @classmethod
    def served_shapes(cls, card: DatasetCard) -> dict[str, tuple[int | None, ...]]:
        """Return the shapes of padded graphs, which are simpler to send than joined ones."""
        return {
            "features": (None, None, card.shape[-1]),
            "adjacency": (None, None, None),
            "sizes": (None,),
        }

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of a split's graphs in order, without their padding."""
        nodes, edges = self.arrays["node_offsets"], self.arrays["edge_offsets"]
        chosen = self.indices(split)
        for graph in chosen:
            yield int(nodes[graph + 1] - nodes[graph]).to_bytes(8, "little")
            yield self.arrays["features"][nodes[graph] : nodes[graph + 1]].tobytes()
            yield self.arrays["edges"][edges[graph] : edges[graph + 1]].tobytes()
        yield self.targets(chosen).tobytes()


def expectations(card: DatasetCard, bounds: GraphExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet."""
    nodes = card.facts["nodes"]
    return [
        *count_checks(card),
        check(
            "ExpectColumnSumToBeBetween",
            "nodes",
            f"{nodes:,} nodes",
            "The number of nodes equals the dataset card's: none was lost or added.",
            column="nodes",
            min_value=nodes,
            max_value=nodes,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "not-empty",
            "at least 1 node",
            "Every graph has at least one node: the readout of an empty graph is undefined.",
            column="nodes",
            min_value=1,
        ),
        *edge_checks(card),
        check(
            "ExpectColumnValuesToBeBetween",
            "isolated",
            f"at most {bounds.isolated:.2%} of the nodes",
            "Few nodes of a graph have no edge: many isolated nodes mean that edges were lost.",
            setting="isolated",
            column="isolated",
            max_value=bounds.isolated,
            # A few graphs of a large dataset may be unusual.
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
        number of edges with each fault of `edge_faults` (`dangling`, `self_loops`, `repeated`,
        `one_way`), `isolated` (share of nodes without an edge), `width`, `dtype`, `nan` (number of
        features that are not finite), `largest` (largest absolute feature) and `content_hash`
        (hash of features and edges).

    Raises:
        DataError: If an array has the wrong dtype or shape, or the offsets do not fit.
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


#: Edges whose order is checked at once.
BLOCK = 1_000_000


def _in_order(edges: NDArray[Any], begins: NDArray[np.int64]) -> bool:
    """Return whether the edges of each graph are sorted, each once, without self-loops."""
    first = np.zeros(len(edges) + 1, bool)
    first[begins] = True
    for start in range(0, len(edges), BLOCK):
        part = edges[start : start + BLOCK + 1]
        step = np.diff(part.astype(np.int64), axis=0)
        rises = (step[:, 0] > 0) | ((step[:, 0] == 0) & (step[:, 1] > 0))
        if not (rises | first[start + 1 : start + len(part)]).all():
            return False
        if (part[:, 0] == part[:, 1]).any():
            return False
    return True


def _nodes(inputs: Any) -> NDArray[np.float64]:
    return np.asarray(inputs["sizes"], np.float64)


def _edges_per_node(inputs: Any) -> NDArray[np.float64]:
    sizes = inputs["sizes"]
    graph = np.repeat(np.arange(len(sizes)), sizes)[inputs["edges"][:, 0]]
    return np.bincount(graph, minlength=len(sizes)) / np.maximum(_nodes(inputs), 1)


def _size(dataset: Dataset, offsets: str, position: int) -> int:
    places = dataset.arrays[offsets]
    return int(places[position + 1] - places[position])


KIND = Kind(
    "graphs",
    Data,
    GraphExpectations,
    rows,
    expectations,
    look="graph",
    file=None,
    joined=True,
    folds=True,
    figures={"nodes": _nodes, "edges per node": _edges_per_node},
    columns={
        message("nodes"): lambda dataset, position: _size(dataset, "node_offsets", position),
        message("edges"): lambda dataset, position: _size(dataset, "edge_offsets", position),
    },
)
