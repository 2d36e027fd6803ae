"""Edges of graphs as flat arrays, and the expectations for features and edges."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard
from chapterflow.kinds.rows import check
from chapterflow.types import Share, Strict

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


class GraphExpectations(Strict):
    """Bounds of the suites for many graphs and for one graph of many nodes.

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of examples that repeat another one, bit for bit.
        isolated: Largest share of nodes without an edge, per graph.
        value_use: Smallest share of the value range that the largest feature uses.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    isolated: Share
    value_use: Share


#: Code in `split.npy` of a node that is in no split.
NO_SPLIT = len(SPLITS)


def offsets(sizes: ArrayLike) -> NDArray[np.int64]:
    """Return where each part of a flat array begins, and the end: `(n + 1,)`."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def rows_of(begins: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the positions of parts of a flat array, one part after the other."""
    ends = np.cumsum(sizes, dtype=np.int64)
    rows = np.repeat(np.asarray(begins, np.int64) - (ends - sizes), sizes)
    rows += np.arange(len(rows))
    return rows


def padded(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return joined graphs with adjacency matrices, as clients of a served model may send them.

    Args:
        inputs: `features` `(n, f)`, `edges` `(e, 2)` and `sizes` `(b,)`, or one graph without
            `sizes`.

    Returns:
        `features` `(b, m, f)`, `adjacency` `(b, m, m)` and `sizes` for graphs of up to m nodes, or
        `features` `(n, f)` and `adjacency` `(n, n)`.
    """
    features, edges = inputs["features"], inputs["edges"]
    if "sizes" not in inputs:
        adjacency = np.zeros((len(features), len(features)), np.float32)
        adjacency[edges[:, 0], edges[:, 1]] = 1
        return {"features": np.array(features), "adjacency": adjacency}
    sizes = inputs["sizes"]
    graph = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(graph)) - offsets(sizes)[graph]
    largest = int(sizes.max(initial=0))
    stacked = np.zeros((len(sizes), largest, features.shape[1]), np.float32)
    stacked[graph, place] = features
    adjacency = np.zeros((len(sizes), largest, largest), np.float32)
    adjacency[graph[edges[:, 0]], place[edges[:, 0]], place[edges[:, 1]]] = 1
    return {"features": stacked, "adjacency": adjacency, "sizes": sizes}


def sorted_edges(edges: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return edges `(m, 2)` in ascending order, each once, without self-loops."""
    edges = np.unique(np.asarray(edges, np.int32).reshape(-1, 2), axis=0)
    loops: NDArray[np.bool_] = edges[:, 0] == edges[:, 1]
    return np.ascontiguousarray(edges[~loops])


def both_ways(edges: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return undirected edges, each listed in both directions, sorted."""
    return sorted_edges(np.concatenate([edges, edges[:, ::-1]]))


def content_hash(features: NDArray[np.float32], edges: NDArray[np.int32]) -> str:
    """Return a hash of one graph; it depends on the order of nodes, not on the order of edges."""
    edges = np.asarray(edges, np.int32)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    digest = hashlib.blake2b(repr(features.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(features, np.float32).tobytes())
    digest.update(np.ascontiguousarray(edges[order]).tobytes())
    return digest.hexdigest()


def check_counts(name: str, received: int, expected: int, of: str) -> None:
    """Raise a `DataError` if a file has a wrong number of lines."""
    if received != expected:
        raise DataError(
            f"{name} must have {expected:,} lines, one for each {of}. Received: {received:,}"
        )


def check_arrays(dataset: Dataset, examples: str) -> None:
    """Raise a `DataError` if an array has the wrong dtype or shape.

    Args:
        examples: Noun for an example, `graph` or `node`.
    """
    features, edges = dataset.arrays["features"], dataset.arrays["edges"]
    if features.dtype.kind not in "biuf" or features.ndim != 2 or not features.shape[1]:
        raise DataError(
            f"{dataset.folder}: features must be numbers of shape (nodes, features). "
            f"Received: {features.dtype} {features.shape}"
        )
    if edges.dtype.kind not in "iu" or edges.ndim != 2 or edges.shape[1] != 2:
        raise DataError(
            f"{dataset.folder}: edges must be whole numbers of shape (edges, 2). "
            f"Received: {edges.dtype} {edges.shape}"
        )
    for name, array in (("labels", dataset.labels), ("split", dataset.split)):
        if array.dtype.kind not in "biuf" or array.ndim != 1:
            raise DataError(
                f"{dataset.folder}: {name} must be a number for each {examples}. "
                f"Received: {array.dtype} {array.shape}"
            )


def edge_faults(edges: NDArray[np.integer], nodes: int) -> dict[str, NDArray[np.bool_]]:
    """Return a mask `(m,)` over the edges `(m, 2)` of a graph for each fault.

    `dangling`: an end is not a node. The other faults exclude dangling edges: `self_loop`: both
    ends are the same node; `repeated`: an earlier edge is the same; `one_way`: the edge in the
    opposite direction is missing.
    """
    edges = np.asarray(edges, np.int64)
    dangling = ((edges < 0) | (edges >= nodes)).any(axis=1)
    key = edges[:, 0] * nodes + edges[:, 1]
    back = edges[:, 1] * nodes + edges[:, 0]
    repeated = np.ones(len(edges), bool)
    repeated[np.unique(key, return_index=True)[1]] = False
    return {
        "dangling": dangling,
        "self_loop": ~dangling & (edges[:, 0] == edges[:, 1]),
        "repeated": ~dangling & repeated,
        "one_way": ~dangling & ~np.isin(back, key[~dangling]),
    }


def feature_checks(card: DatasetCard, bounds: GraphExpectations) -> list[Expectation]:
    """Return the checks of features: width, dtype, finite values and range."""
    width, top = card.shape[-1], card.value_max
    return [
        _none(
            "width",
            [width],
            f"{width} features",
            "Every node has the number of features that the models are built for.",
        ),
        _none("dtype", ["float32"], "float32", "Features have the dtype that models read."),
        _none(
            "nan",
            [0],
            "no NaN or infinity",
            "Every feature is a finite number: a single NaN spreads to all neighbours and turns "
            "all weights into NaN.",
            name="finite",
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-range",
            f"{-top:g} to {top:g}",
            f"No feature is larger than {top:g}, the value that the models divide by.",
            column="largest",
            max_value=top,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * top:.4g}",
            f"The largest feature is close to {top:g}: features already divided by their maximum "
            "or sum are much smaller.",
            setting="value_use",
            unit=top,
            column="largest",
            min_value=bounds.value_use * top,
        ),
    ]


def edge_checks(card: DatasetCard) -> list[Expectation]:
    """Return the checks of edges: their number, valid ends, both directions."""
    edges = card.facts["edges"]
    checks = [
        check(
            "ExpectColumnSumToBeBetween",
            "edges",
            f"{edges:,} edges",
            "The number of edges equals the dataset card's: none was lost or added.",
            column="edges",
            min_value=edges,
            max_value=edges,
        ),
        _none(
            "dangling",
            [0],
            "every edge between two nodes",
            "Every edge joins two existing nodes: node numbers that start at 1, or belong to "
            "another graph, exceed the last node.",
        ),
        _none(
            "self_loops",
            [0],
            "no edge from a node to itself",
            "No node is its own neighbour: models add self-loops and would count them twice.",
            name="self-loops",
        ),
        _none("repeated", [0], "each edge once", "No edge is listed twice.", name="repeated-edges"),
    ]
    if not card.facts["directed"]:
        checks.append(
            _none(
                "one_way",
                [0],
                "every edge in both directions",
                "Undirected graphs list each edge in both directions: otherwise information flows "
                "one way only. For edges with a direction: `data add --directed`, or "
                "`directed: true` in the block of the dataset.",
                name="symmetric",
            )
        )
    return checks


def _none(
    column: str, allowed: list[Any], expected: str, reason: str, *, name: str | None = None
) -> Expectation:
    return check(
        "ExpectColumnValuesToBeInSet",
        name or column,
        expected,
        reason,
        column=column,
        value_set=allowed,
    )
