"""Node attributions of graph networks: occlusion of nodes, and gradient times input.

An occluded node is removed with its edges, as if it had never been there, so no baseline is needed.

Occlusion of nodes follows Zeiler & Fergus (ECCV 2014); gradient x input: Shrikumar et al.,
"Not just a black box" (2016); both on graphs: Pope et al., "Explainability methods for graph
convolutional neural networks", CVPR (2019).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.faithfulness import Score
from chapterflow.explain.outputs import probability
from chapterflow.explain.sanity import NOISE
from chapterflow.kinds.dataset import Dataset

if TYPE_CHECKING:
    import keras

CONVOLUTIONS = ("GraphConvolution", "GINConvolution")
#: Layers that scale features before a convolution reads them.
SCALING = ("RowNormalization", "Rescaling")
#: Graphs in one forward pass, and nodes of all variants of one graph together.
BATCH, NODES = 256, 20_000
#: Nodes of one large graph that are explained, the nearest first.
NEAREST = 150


@dataclass(frozen=True)
class NodeProbe:
    """One graph, or the part of a graph that decides the class of one of its nodes.

    Attributes:
        features: `(n, f)`.
        adjacency: `(n, n)`.
        nodes: Numbers of the nodes in their dataset, `(n,)`.
        free: Nodes that may be removed, `(n,)`.
        focus: Position of the node whose class is explained; None if it is the class of the graph.
    """

    features: NDArray[np.float32]
    adjacency: NDArray[np.float32]
    nodes: NDArray[np.intp]
    free: NDArray[np.bool_]
    focus: int | None = None

    def with_noise(self, value_max: float, seed: int) -> NodeProbe:
        """Return the probe with a little noise on its features; see `sanity.NOISE`."""
        rng = np.random.default_rng([seed, 7])
        noise = rng.normal(0, NOISE * value_max, self.features.shape)
        return dataclasses.replace(self, features=np.asarray(self.features + noise, np.float32))


class NodeModel(ABC):
    """A model as a function of probes with some of their nodes kept."""

    def __init__(self, model: keras.Model) -> None:
        import keras

        self.model = model
        scaled = [layer for layer in model.layers if type(layer).__name__ in SCALING]
        features = scaled[0].output if scaled else model.input["features"]
        self._inner = keras.Model(model.input, [features, model.output])

    @abstractmethod
    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)` of a probe with the nodes `(m, n)` kept."""

    @abstractmethod
    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return the model's inputs for a whole probe with these features."""

    def with_features(self, inputs: Any) -> tuple[Any, Any]:
        """Return the features that the convolutions read, and the outputs."""
        return self._inner(inputs, training=False)  # type: ignore[no-any-return]

    def of_probe(self, probe: NodeProbe, outputs: Any) -> Any:
        """Return the logits `(classes,)` of a probe among the model's outputs."""
        return outputs[0 if probe.focus is None else probe.focus]


class WholeGraphs(NodeModel):
    """A model that classifies graphs, padded in a batch."""

    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)`."""
        logits = []
        for start in range(0, len(kept), BATCH):
            part = kept[start : start + BATCH]
            order = np.argsort(~part, axis=1, kind="stable")  # The kept nodes come first.
            sizes = part.sum(axis=1)
            real = np.arange(part.shape[1]) < sizes[:, np.newaxis]
            adjacency = probe.adjacency[order[:, :, np.newaxis], order[:, np.newaxis, :]]
            inputs = {
                "features": probe.features[order] * real[..., np.newaxis],
                "adjacency": adjacency * (real[:, :, np.newaxis] & real[:, np.newaxis, :]),
                "sizes": sizes.astype(np.int32),
            }
            logits.append(np.asarray(self.model(inputs, training=False)))
        return np.concatenate(logits)

    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return a batch of one graph."""
        return {
            "features": features[None],
            "adjacency": probe.adjacency[np.newaxis],
            "sizes": np.array([len(probe.nodes)], np.int32),
        }


class NodesOfOne(NodeModel):
    """A model that classifies the nodes of one graph; variants of it form one sparse graph."""

    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)` of the probe's node."""
        step = max(1, NODES // len(probe.nodes))
        return np.concatenate(
            [
                self._together(probe, kept[start : start + step])
                for start in range(0, len(kept), step)
            ]
        )

    def _together(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        import tensorflow as tf

        # Position of each kept node in the one graph of all variants.
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
        # Dense features: searching for zeros would take longer than multiplying by them.
        features = tf.convert_to_tensor(probe.features[node])
        inputs = {"features": features, "adjacency": tf.sparse.reorder(adjacency)}
        outputs = np.asarray(self.model(inputs, training=False))
        return np.asarray(outputs[places[:, probe.focus]])

    def inputs(self, probe: NodeProbe, features: Any) -> Any:
        """Return the graph around the node."""
        return {"features": features, "adjacency": probe.adjacency}


def node_probes(
    model: keras.Model, dataset: Dataset, chosen: NDArray[np.intp]
) -> tuple[NodeModel, list[NodeProbe]]:
    """Return a model and the chosen examples as probes.

    If the examples are nodes of one graph, a probe holds the nodes within one step more than the
    model has convolutions: farther nodes do not reach the explained one, and the farthest ring
    only counts in the degrees of the others.
    """
    if not dataset.kind.whole:
        probes = []
        for position in chosen:
            graph = dataset.inputs(np.array([position]))
            count = int(graph["sizes"][0])
            nodes = np.arange(count)
            probes.append(
                NodeProbe(graph["features"][0], graph["adjacency"][0], nodes, np.ones(count, bool))
            )
        return WholeGraphs(model), probes
    whole = dataset.inputs(chosen)
    depth = sum(type(layer).__name__ in CONVOLUTIONS for layer in model.layers)
    return NodesOfOne(model), [
        neighbourhood(whole["features"], whole["adjacency"], int(node), depth) for node in chosen
    ]


def neighbourhood(
    features: NDArray[Any], adjacency: NDArray[Any], focus: int, depth: int
) -> NodeProbe:
    """Return the probe of one node: all that decides its output after `depth` convolutions."""
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
    """Return arrays `(n_i,)` as one `(probes, largest n)`, padded with 0."""
    rows = np.zeros((len(parts), max(map(len, parts))), parts[0].dtype)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows


def node_occlusion(model: NodeModel, probe: NodeProbe, target: int) -> NDArray[Any]:
    """Return by how much the logit falls without each node, `(n,)`; 0 for nodes always kept."""
    count = len(probe.nodes)
    free = np.flatnonzero(probe.free)
    kept = np.ones((len(free) + 1, count), bool)
    kept[np.arange(len(free)), free] = False
    logits = model.logits(probe, kept)[:, target]
    falls = np.zeros(count)
    falls[free] = logits[-1] - logits[:-1]
    return falls


def gradient_input(model: NodeModel, probe: NodeProbe, target: int) -> NDArray[Any]:
    """Return the gradient of the logit in each node's features times the features, `(n,)`.

    It measures features only, not the effect of a node's edges. If the model divides each row of
    features by its sum, the scaled features are used: scaling a row before that division changes
    nothing, so gradient times input would be 0.
    """
    import tensorflow as tf

    x = tf.convert_to_tensor(probe.features)
    with tf.GradientTape() as tape:
        tape.watch(x)
        # Keras takes tensors or arrays, not both at once.
        inputs = {k: tf.convert_to_tensor(v) for k, v in model.inputs(probe, x).items()}
        scaled, outputs = model.with_features(inputs)
        logit = model.of_probe(probe, outputs)[target]
    products = np.asarray(tape.gradient(logit, scaled) * scaled)
    return np.where(probe.free, products.reshape(len(probe.nodes), -1).sum(axis=1), 0.0)


#: Attribution methods of nodes by name.
METHODS: dict[str, Callable[[NodeModel, NodeProbe, int], NDArray[Any]]] = {
    "node-occlusion": node_occlusion,
    "gradient-x-input": gradient_input,
}


def node_maps(
    model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Return the values of the nodes `(probes, largest n)` by method, for each probe's target."""
    return {
        name: padded(
            [method(model, probe, target) for probe, target in zip(probes, targets, strict=True)]
        )
        for name, method in METHODS.items()
    }


def node_score(model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]) -> Score:
    """Return the score of probes of which some nodes are kept: the probability of the target."""

    def score(examples: NDArray[np.intp], kept: NDArray[np.bool_]) -> NDArray[Any]:
        scores = np.empty(len(examples))
        for number, (probe, target) in enumerate(zip(probes, targets, strict=True)):
            own = examples == number
            logits = model.logits(probe, kept[own, : len(probe.nodes)])
            scores[own] = probability(logits, np.full(len(logits), target))
        return scores

    return score
