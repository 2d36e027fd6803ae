"""Graphs of which some nodes are taken away, and what a model answers for them.

A node is taken away as if it had never been there, with its edges; nothing is left in its place,
so no value has to stand for "nothing".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset

if TYPE_CHECKING:
    import keras

CONVOLUTIONS = ("GraphConvolution", "GINConvolution")
#: Layers that scale features before they are read.
SCALING = ("RowNormalization", "Rescaling")
#: Graphs in one forward pass; nodes whose importance is asked for, the nearest first.
BATCH, NEAREST = 256, 150


@dataclass(frozen=True)
class NodeProbe:
    """One graph, or the part of it that decides the class of one of its nodes.

    Attributes:
        features: `(n, f)`.
        adjacency: `(n, n)`.
        nodes: Numbers of the nodes in their dataset, `(n,)`.
        free: Nodes that may be taken away, `(n,)`.
        focus: Place of the node whose class is explained; None where it is that of the graph.
    """

    features: NDArray[np.float32]
    adjacency: NDArray[np.float32]
    nodes: NDArray[np.intp]
    free: NDArray[np.bool_]
    focus: int | None = None


class NodeModel(ABC):
    """A model as a function of probes with some of their nodes kept."""

    def __init__(self, model: keras.Model) -> None:
        import keras

        self.model = model
        scaled = [one for one in model.layers if type(one).__name__ in SCALING]
        features = scaled[0].output if scaled else model.input["features"]
        self._inner = keras.Model(model.input, [features, model.output])

    @abstractmethod
    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)` of a probe with the nodes `(m, n)` kept."""

    @abstractmethod
    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return what the model reads of a whole probe with such features."""

    def with_features(self, inputs: Any) -> tuple[Any, Any]:
        """Return the features that the convolutions read, and the answer."""
        return self._inner(inputs, training=False)  # type: ignore[no-any-return]

    def answer(self, probe: NodeProbe, out: Any) -> Any:
        """Return logits `(classes,)` of a probe from what the model gives for it."""
        return out[0 if probe.focus is None else probe.focus]


class WholeGraphs(NodeModel):
    """A model that classes graphs, padded in a batch."""

    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)`."""
        found = []
        for start in range(0, len(kept), BATCH):
            part = kept[start : start + BATCH]
            order = np.argsort(~part, axis=1, kind="stable")  # The kept nodes come first.
            sizes = part.sum(axis=1)
            real = np.arange(part.shape[1]) < sizes[:, np.newaxis]
            adjacency = probe.adjacency[order[:, :, np.newaxis], order[:, np.newaxis, :]]
            given = {
                "features": probe.features[order] * real[..., np.newaxis],
                "adjacency": adjacency * (real[:, :, np.newaxis] & real[:, np.newaxis, :]),
                "sizes": sizes.astype(np.int32),
            }
            found.append(np.asarray(self.model(given, training=False)))
        return np.concatenate(found)

    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return a batch of one graph."""
        return {
            "features": features[None],
            "adjacency": probe.adjacency[np.newaxis],
            "sizes": np.array([len(probe.nodes)], np.int32),
        }


class NodesOfOne(NodeModel):
    """A model that classes the nodes of one graph; many variants of it are one sparse graph."""

    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)` of the probe's node."""
        found = []
        step = max(1, 20_000 // len(probe.nodes))
        for start in range(0, len(kept), step):
            found.append(self._together(probe, kept[start : start + step]))
        return np.concatenate(found)

    def _together(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        import tensorflow as tf

        # Place of each kept node in the one graph of all variants.
        places = np.cumsum(kept.reshape(-1)).reshape(kept.shape) - 1
        total = int(kept.sum())
        rows, columns = np.nonzero(probe.adjacency)
        variant, edge = np.nonzero(kept[:, rows] & kept[:, columns])
        ends = places[variant, rows[edge]], places[variant, columns[edge]]
        adjacency = tf.SparseTensor(
            np.stack(ends, axis=1).astype(np.int64).reshape(-1, 2),
            probe.adjacency[rows[edge], columns[edge]],
            (total, total),
        )
        node = np.nonzero(kept)[1]
        # Dense features: looking for their zeros would take longer than multiplying by them.
        features = tf.convert_to_tensor(probe.features[node])
        given = {"features": features, "adjacency": tf.sparse.reorder(adjacency)}
        out = np.asarray(self.model(given, training=False))
        return np.asarray(out[places[:, probe.focus]])

    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return the graph around the node."""
        return {"features": features, "adjacency": probe.adjacency}


def node_probes(
    model: keras.Model, dataset: Dataset, chosen: NDArray[np.intp]
) -> tuple[NodeModel, list[NodeProbe]]:
    """Return a model and the chosen examples as probes.

    Of one graph whose nodes are the examples, a probe holds the nodes from which a path leads to
    the chosen one that is at most one longer than the model has convolutions: farther nodes do not
    reach it, and those at the end only count in the degrees of others.
    """
    if dataset.card.kind == "graphs":
        probes = []
        for one in chosen:
            given = dataset.inputs(np.array([one]))
            count = int(given["sizes"][0])
            nodes = np.arange(count)
            probes.append(
                NodeProbe(given["features"][0], given["adjacency"][0], nodes, np.ones(count, bool))
            )
        return WholeGraphs(model), probes
    whole = dataset.inputs(chosen)
    depth = sum(type(layer).__name__ in CONVOLUTIONS for layer in model.layers)
    return NodesOfOne(model), [
        around(whole["features"], whole["adjacency"], int(one), depth) for one in chosen
    ]


def around(features: NDArray[Any], adjacency: NDArray[Any], focus: int, depth: int) -> NodeProbe:
    """Return the probe of one node: all that decides what `depth` convolutions make of it."""
    linked = (adjacency != 0) | (adjacency.T != 0)
    distance = np.full(len(features), -1)
    distance[focus] = 0
    for step in range(1, depth + 2):
        reached = linked[distance == step - 1].any(axis=0) & (distance < 0)
        distance[reached] = step
    nodes = np.flatnonzero(distance >= 0)
    free = (distance[nodes] > 0) & (distance[nodes] <= depth)
    nearest = np.argsort(np.where(free, distance[nodes], depth + 2), kind="stable")
    free[nearest[NEAREST:]] = False
    part = np.ix_(nodes, nodes)
    place = int(np.flatnonzero(nodes == focus)[0])
    return NodeProbe(features[nodes], adjacency[part], nodes, free, place)


def padded(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays `(n_i,)` as one `(probes, largest n)`, filled up with 0."""
    found = np.zeros((len(parts), max(map(len, parts))), parts[0].dtype)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)] = part
    return found
