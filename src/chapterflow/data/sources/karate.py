"""Zachary's karate club: one graph that ships inside networkx."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.kinds.dataset import SPLITS
from chapterflow.kinds.edges import both_ways
from chapterflow.types import DatasetBlock, Seed


class Karate(DatasetBlock):
    """Zachary's karate club (1977), as networkx has it: two factions, nodes without features.

    Attributes:
        train: Members whose faction is known in training, equally many of both.
        validation_nodes: Members for early stopping.
        seed: Seed of the draw; all other members are held out for evaluation.
    """

    kind: Literal["karate"]
    seed: Seed
    train: Annotated[int, Field(ge=2, le=20, multiple_of=2)] = 4
    validation_nodes: Annotated[int, Field(ge=2, le=10)] = 8


def read(params: Karate, fetch: Fetch) -> SourceData:
    """Return the club; nothing is fetched. A node's only feature is which node it is.

    How often two members met is left out: the chapter's graphs have no weights.
    """
    import networkx as nx
    from sklearn.model_selection import train_test_split

    graph = nx.karate_club_graph()
    factions = ["Mr. Hi", "Officer"]
    labels = np.array([factions.index(graph.nodes[node]["club"]) for node in graph], np.uint8)
    split = np.full(len(labels), SPLITS.index("test"), np.uint8)
    rest = np.arange(len(labels))
    for name, size in (("train", params.train), ("validation", params.validation_nodes)):
        rest, drawn = train_test_split(
            rest, test_size=size, stratify=labels[rest], random_state=params.seed
        )
        split[drawn] = SPLITS.index(name)
    edges = both_ways(np.array(graph.edges, np.int32))
    return SourceData(
        arrays={
            "labels": labels,
            "split": split,
            "features": np.eye(len(labels), dtype=np.float32),
            "edges": edges,
        },
        shape=(len(labels),),
        classes=factions,
        value_max=1,
        title="Zachary's karate club",
        source="networkx karate_club_graph; Zachary 1977",
        licence="public domain",
        facts={
            "directed": False,
            "nodes": len(labels),
            "edges": len(edges),
            "features": "the number of the node, one-hot",
        },
    )


SOURCE = Source("karate", Karate, "citations", read)
