"""Four families of random graphs, equal in size and density: only their structure differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.data.splits import grouped_split
from chapterflow.kinds.edges import both_ways, content_hash, offsets
from chapterflow.types import DatasetBlock, PositiveInt, Seed, SplitShare

if TYPE_CHECKING:
    import networkx as nx


class RandomGraphs(DatasetBlock):
    """Four families of random graphs of matched size and density: only their structure differs.

    Attributes:
        per_family: Graphs of each family.
        nodes: Fewest and most nodes of a graph.
        attachments: Edges that each new node of a Barabasi-Albert graph brings; with it, every
            graph of n nodes has `attachments * (n - attachments)` edges, whatever its family.
        rewiring: Share of edges that Watts and Strogatz rewire.
        group: Nodes of a group of the planted partition.
        inside: Probability of an edge within a group.
        degree_cap: Degrees from it on share one feature.
        validation: Share of all graphs for early stopping.
        test: Share of all graphs held out for evaluation.
        seed: Seed of graphs and splits.
    """

    kind: Literal["random-graphs"]
    seed: Seed
    per_family: PositiveInt = 150
    nodes: Annotated[list[Annotated[int, Field(ge=8, le=1000)]], Field(min_length=2, max_length=2)]
    attachments: Annotated[int, Field(ge=1, le=20)] = 3
    rewiring: Annotated[float, Field(ge=0, le=1)] = 0.1
    group: Annotated[int, Field(ge=2)] = 12
    inside: Annotated[float, Field(gt=0, le=1)] = 0.4
    degree_cap: PositiveInt = 15
    validation: SplitShare
    test: SplitShare

    @model_validator(mode="after")
    def _possible(self) -> Self:
        fewest, most = self.nodes
        if fewest > most:
            raise ValueError("nodes must be [fewest, most]")
        # Watts-Strogatz rings and planted groups must fit into the smallest graph, and the edges
        # within groups must not be more than all the edges.
        degree = 2 * self.attachments * (fewest - self.attachments) / fewest
        if 2 * self.attachments >= fewest or 2 * self.group > fewest:
            raise ValueError("the smallest graph must hold 2 * attachments and 2 * group nodes")
        if (self.group - 1) * self.inside > degree:
            raise ValueError("(group - 1) * inside must not exceed the mean degree")
        return self


FAMILIES = ("Erdos-Renyi", "Barabasi-Albert", "Watts-Strogatz", "planted partition")


def read(params: RandomGraphs, fetch: Fetch) -> SourceData:
    """Draw the graphs; nothing is fetched."""
    rng = np.random.default_rng(params.seed)
    fewest, most = params.nodes
    # The same sizes for each family: size must not tell them apart.
    sizes = rng.integers(fewest, most + 1, params.per_family)
    graphs, labels = [], []
    for nodes in sizes:
        for label, family in enumerate(FAMILIES):
            graphs.append(both_ways(_edges(family, int(nodes), params, rng)))
            labels.append(label)
    counts = np.repeat(sizes, len(FAMILIES))
    features = [
        _degree_features(edges, int(nodes), params.degree_cap)
        for edges, nodes in zip(graphs, counts, strict=True)
    ]
    classes = np.array(labels, np.uint8)
    contents = [content_hash(x, edges) for x, edges in zip(features, graphs, strict=True)]
    split = grouped_split(
        classes, contents, validation=params.validation, test=params.test, seed=params.seed
    )
    edges = np.concatenate(graphs)
    return SourceData(
        arrays={
            "labels": classes,
            "split": split,
            "features": np.concatenate(features),
            "edges": edges,
            "node_offsets": offsets(counts),
            "edge_offsets": offsets(np.array([len(pairs) for pairs in graphs])),
        },
        shape=(None, params.degree_cap + 1),
        classes=list(FAMILIES),
        value_max=1,
        title="Random graphs of four families, matched in size and density",
        source="networkx (Erdos & Renyi 1959, Barabasi & Albert 1999, Watts & Strogatz 1998, "
        "Condon & Karp 2001)",
        licence="CC0 1.0",
        facts={
            "directed": False,
            "nodes": int(counts.sum()),
            "edges": len(edges),
            "features": f"degree, one-hot, {params.degree_cap} and more together",
        },
    )


def _edges(
    family: str, nodes: int, params: RandomGraphs, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return the edges `(m, 2)` of one graph, `attachments * (nodes - attachments)` of them."""
    wanted = params.attachments * (nodes - params.attachments)
    while True:
        graph = _draw(family, nodes, wanted, params, seed=int(rng.integers(2**31)))
        edges = np.array(sorted(graph.edges), np.int32).reshape(-1, 2)
        # Families whose number of edges is not exactly the wanted one lose some at random.
        if len(edges) >= wanted:
            return edges[np.sort(rng.permutation(len(edges))[:wanted])]


def _draw(
    family: str, nodes: int, wanted: int, params: RandomGraphs, *, seed: int
) -> nx.Graph[Any]:
    import networkx as nx

    if family == "Erdos-Renyi":
        return nx.gnm_random_graph(nodes, wanted, seed=seed)
    if family == "Barabasi-Albert":
        return nx.barabasi_albert_graph(nodes, params.attachments, seed=seed)
    if family == "Watts-Strogatz":
        return nx.watts_strogatz_graph(nodes, 2 * params.attachments, params.rewiring, seed=seed)
    within = (params.group - 1) * params.inside
    # What the groups leave of the mean degree, and a little more, lest many draws fall short.
    across = 1.05 * (2 * wanted / nodes - within) / (nodes - params.group)
    sizes = [len(part) for part in np.array_split(np.arange(nodes), nodes // params.group)]
    return nx.random_partition_graph(sizes, params.inside, min(1.0, max(0.0, across)), seed=seed)


def _degree_features(edges: NDArray[np.int32], nodes: int, cap: int) -> NDArray[np.float32]:
    """Return the degree of each node, one-hot `(nodes, cap + 1)`."""
    degrees = np.minimum(np.bincount(edges[:, 0], minlength=nodes), cap)
    return np.eye(cap + 1, dtype=np.float32)[degrees]


SOURCE = Source("random-graphs", RandomGraphs, "graphs", read)
