"""Sources of graphs: random families, TU and Planetoid files, Zachary's karate club."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chapterflow.models.parts.base import PositiveInt, Strict
from chapterflow.settings.types import FolderOrArchive, Seed, Sha256, SplitShare

#: The eight files of a Planetoid dataset, by the end of their name.
PlanetoidFile = Literal["x", "y", "tx", "ty", "allx", "ally", "graph", "test.index"]


class RandomGraphs(Strict):
    """Four families of random graphs of matched size and density, told apart by structure alone.

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


class Tu(FolderOrArchive):
    """Graphs in the text format of the TU collection (Morris et al. 2020), zip archive or folder.

    Attributes:
        name: Name of the dataset, with which its files begin; null takes the one that is there.
        directed: Whether edges have a direction. If not, each must be listed both ways.
        validation: Share of all graphs for early stopping.
        test: Share of all graphs held out for evaluation.
        seed: Seed of the splits. Graphs that are equal, bit for bit, get into the same split.
    """

    kind: Literal["tu"]
    seed: Seed
    name: str | None = None
    directed: bool = False
    validation: SplitShare = 0.1
    test: SplitShare = 0.2
    title: Annotated[str, Field(min_length=1)] = "Graphs in TU format"
    licence: str = "unknown"


class Karate(Strict):
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


class Planetoid(Strict):
    """One graph in the format of Planetoid (Yang et al. 2016): `ind.<name>.x` and seven others.

    Train are the nodes of `y`, validation the 500 after them, test those of `test.index`, as in
    Kipf & Welling (2017). The pickles are read by a restricted unpickler.

    Attributes:
        name: Name of the dataset in its files' names: `cora`.
        path: A folder on this machine, instead of `mirror` and `upstream`; like an address it is
            no part of the recipe.
        mirror: Folder of the files below `CHAPTERFLOW_MIRROR`; null where no mirror holds them.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        sha256: Hashes of files, by the end of their name; a file without one is taken as it is.
        validation_nodes: Nodes after the train nodes that are for early stopping.
    """

    kind: Literal["planetoid"]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
    path: str | None = None
    mirror: str | None = None
    upstream: list[str] = Field(default_factory=list)
    sha256: dict[PlanetoidFile, Sha256] = Field(default_factory=dict)
    validation_nodes: PositiveInt = 500
    title: Annotated[str, Field(min_length=1)] = "Citations in Planetoid format"
    licence: str = "unknown"
