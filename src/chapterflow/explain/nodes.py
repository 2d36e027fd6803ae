"""Node attributions of graph networks: occlusion of nodes, and gradient times input.

An occluded node is removed with its edges, as if it had never been there, so no baseline is needed.

Occlusion of nodes follows Zeiler & Fergus (ECCV 2014); gradient x input: Shrikumar et al.,
"Not just a black box" (2016); both on graphs: Pope et al., "Explainability methods for graph
convolutional neural networks", CVPR (2019).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.faithfulness import Score
from chapterflow.explain.outputs import probability
from chapterflow.explain.sanity import NOISE
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.edges import offsets

if TYPE_CHECKING:
    import keras

CONVOLUTIONS = ("GraphConvolution", "GINConvolution")
#: Layers that scale features before a convolution reads them.
SCALING = ("RowNormalization", "Rescaling")
#: Nodes of all variants of a graph in one forward pass.
NODES = 50_000
#: Most nodes that are explained: in one large graph, the nearest; in each of many graphs, the
#: nodes with the most edges.
NEAREST, MOST = 150, 500


@dataclass(frozen=True)
class NodeProbe:
    """One graph, or the part of a graph that decides the class of one of its nodes.

    Attributes:
        features: `(n, f)`.
        edges: `(e, 2)`, source and target, sorted.
        nodes: Numbers of the nodes in their dataset, `(n,)`.
        free: Nodes that may be removed, `(n,)`.
        focus: Position of the node whose class is explained; None if it is the class of the graph.
    """

    features: NDArray[np.float32]
    edges: NDArray[np.int32]
    nodes: NDArray[np.intp]
    free: NDArray[np.bool_]
    focus: int | None = None

    def with_noise(self, value_max: float, seed: int) -> NodeProbe:
        """Return the probe with a little noise on its features; see `sanity.NOISE`."""
        rng = np.random.default_rng([seed, 7])
        noise = rng.normal(0, NOISE * value_max, self.features.shape)
        return dataclasses.replace(self, features=np.asarray(self.features + noise, np.float32))


class NodeModel:
    """A model as a function of probes with some of their nodes kept.

    Variants are joined into one graph, so that no padding is needed. There are so few passes that
    tracing them would take longer. Variants of a node's neighbourhood share its features, of which
    a citation graph has thousands: if the first convolution multiplies them by its kernel, that is
    done once.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras

        self._names = list(model.input)
        scaled = [layer for layer in model.layers if type(layer).__name__ in SCALING]
        features = scaled[0].output if scaled else model.input["features"]
        self._inner = keras.Model(model.input, [features, model.output])
        self._product: Callable[[Any], Any] | None = None
        self._network: Callable[..., Any] = model
        if "sizes" not in self._names and (shared := _shared_product(model)):
            self._product, self._network = shared
        self._occluded: dict[tuple[int, ...], tuple[Sequence[NodeProbe], list[_Joined]]] = {}

    def logits(self, variants: Sequence[tuple[NodeProbe, NDArray[np.bool_]]]) -> NDArray[Any]:
        """Return logits `(m, classes)` of probes, of each with the nodes `(m_i, n_i)` kept."""
        return self._logits([probe for probe, _ in variants], _joined(variants))

    def occluded(self, probes: Sequence[NodeProbe]) -> list[NDArray[Any]]:
        """Return the logits of each probe `(free + 1, classes)` without each node, and whole."""
        # Sanity checks come with the same graphs, other features and other weights.
        key = tuple(id(probe.edges) for probe in probes)
        if key not in self._occluded:
            variants = []
            for probe in probes:
                free = np.flatnonzero(probe.free)
                kept = np.ones((len(free) + 1, len(probe.nodes)), bool)
                kept[np.arange(len(free)), free] = False
                variants.append((probe, kept))
            # Probes that are held keep their identity.
            self._occluded[key] = probes, _joined(variants)
        logits = self._logits(probes, self._occluded[key][1])
        return np.split(logits, np.cumsum([probe.free.sum() + 1 for probe in probes])[:-1])

    def products(self, probes: Sequence[NodeProbe], targets: Sequence[int]) -> list[NDArray[Any]]:
        """Return gradient times input of each probe, summed over the features, `(n,)`."""
        import tensorflow as tf

        features = np.concatenate([probe.features for probe in probes])
        products = []
        for joined in _joined([(probe, np.ones((1, len(probe.nodes)), bool)) for probe in probes]):
            inputs = self._inputs(features, joined)
            with tf.GradientTape() as tape:
                tape.watch(inputs["features"])
                scaled, outputs = self._inner(inputs, training=False)
                chosen = tf.gather(outputs, joined.rows)
                first, targets = targets[: len(joined.rows)], targets[len(joined.rows) :]
                total = tf.reduce_sum(tf.gather(chosen, first, axis=1, batch_dims=1))
            products.append(tf.reduce_sum(tape.gradient(total, scaled) * scaled, axis=1))
        ends = np.cumsum([len(probe.nodes) for probe in probes])
        return np.split(np.concatenate(products), ends[:-1])

    def _logits(self, probes: Sequence[NodeProbe], parts: Sequence[_Joined]) -> NDArray[Any]:
        import tensorflow as tf

        rows = [
            self._product(probe.features) if self._product else probe.features for probe in probes
        ]
        features = tf.concat(rows, axis=0)
        return np.concatenate(
            [
                tf.gather(
                    self._network(self._inputs(features, joined), training=False), joined.rows
                )
                for joined in parts
            ]
        )

    def _inputs(self, features: Any, joined: _Joined) -> dict[str, Any]:
        """Return the inputs of the model: of all nodes of the probes, those that are kept."""
        import tensorflow as tf

        # Dense features: searching for zeros would take longer than multiplying by them.
        inputs = {
            "features": tf.gather(features, joined.nodes),
            "edges": joined.edges,
            "sizes": joined.sizes,
        }
        return {name: inputs[name] for name in self._names}


def _shared_product(
    model: keras.Model,
) -> tuple[Callable[[Any], Any], Callable[..., Any]] | None:
    """Return a model of one graph in two parts, if it begins with a `GraphConvolution`.

    Returns:
        The products of the features `(n, f)` and that layer's kernel, `(n, units)`; and the rest of
        the model, with these products as its features.
    """
    import keras

    from chapterflow.models.layers.graph_convolution import GraphConvolution

    first = next((layer for layer in model.layers if isinstance(layer, GraphConvolution)), None)
    if first is None:
        return None
    features, edges = (model.input[name] for name in ("features", "edges"))
    try:
        before = keras.Model(features, first.input[0])
        after = keras.Model([first.output, edges], model.output)
    except ValueError:  # features or edges go another way, too
        return None

    def product(features: Any) -> Any:
        return keras.ops.matmul(before(features, training=False), first.kernel)

    def rest(inputs: Any, training: bool) -> Any:
        structure = inputs["edges"]
        outputs = first.of_products(inputs["features"], structure)
        return after([outputs, structure], training=training)

    return product, rest


@dataclass(frozen=True)
class _Joined:
    """Variants of probes as one graph.

    Attributes:
        nodes: Kept nodes of all variants, numbered through all probes.
        edges: `(e, 2)`, a tensor: layers keep on it what depends on the edges alone.
        sizes: Number of nodes of each variant, a tensor.
        rows: Rows of the model's outputs that belong to the variants.
    """

    nodes: NDArray[np.intp]
    edges: Any
    sizes: Any
    rows: NDArray[np.intp]


def _joined(variants: Sequence[tuple[NodeProbe, NDArray[np.bool_]]]) -> list[_Joined]:
    """Return probes, of each with the nodes `(m_i, n_i)` kept, in graphs of at most `NODES`."""
    import tensorflow as tf

    parts = []
    for (probe, kept), first in zip(
        variants, offsets([len(probe.nodes) for probe, _ in variants]), strict=False
    ):
        step = max(1, NODES // len(probe.nodes))
        parts += [(probe, kept[at : at + step], first) for at in range(0, len(kept), step)]
    joined = []
    while parts:
        nodes: list[NDArray[Any]] = []
        edges: list[NDArray[Any]] = []
        rows: list[NDArray[Any]] = []
        sizes: list[int] = []
        room, start = NODES, 0
        while parts and (not nodes or parts[0][1].size <= room):
            probe, kept, first = parts.pop(0)
            room -= kept.size
            # Number of each kept node in the one graph of all variants.
            places = np.cumsum(kept.reshape(-1)).reshape(kept.shape) - 1 + start
            source, target = probe.edges.T
            variant, edge = np.nonzero(kept[:, source] & kept[:, target])
            nodes.append(np.nonzero(kept)[1] + first)
            edges.append(
                np.stack([places[variant, source[edge]], places[variant, target[edge]]], axis=1)
            )
            graphs = np.arange(len(sizes), len(sizes) + len(kept))
            rows.append(graphs if probe.focus is None else places[:, probe.focus])
            sizes.extend(kept.sum(axis=1))
            start += int(kept.sum())
        joined.append(
            _Joined(
                np.concatenate(nodes),
                tf.constant(np.concatenate(edges), tf.int32),
                tf.constant(sizes, tf.int32),
                np.concatenate(rows),
            )
        )
    return joined


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
            degrees = np.bincount(graph["edges"][:, 0], minlength=count)
            free = np.ones(count, bool)
            free[np.argsort(-degrees, kind="stable")[MOST:]] = False
            probes.append(NodeProbe(graph["features"], graph["edges"], np.arange(count), free))
        return NodeModel(model), probes
    whole = dataset.inputs(chosen)
    depth = sum(type(layer).__name__ in CONVOLUTIONS for layer in model.layers)
    return NodeModel(model), [
        neighbourhood(whole["features"], whole["edges"], int(node), depth) for node in chosen
    ]


def neighbourhood(
    features: NDArray[Any], edges: NDArray[np.int32], focus: int, depth: int
) -> NodeProbe:
    """Return the probe of one node: all that affects its output after `depth` convolutions."""
    distance = np.full(len(features), -1)
    distance[focus] = 0
    for step in range(1, depth + 2):
        for here, there in (edges.T, edges.T[::-1]):
            reached = there[distance[here] == step - 1]
            distance[reached[distance[reached] < 0]] = step
    nodes = np.flatnonzero(distance >= 0)
    free = (distance[nodes] > 0) & (distance[nodes] <= depth)
    nearest = np.argsort(np.where(free, distance[nodes], depth + 2), kind="stable")
    free[nearest[NEAREST:]] = False
    inside = edges[(distance[edges] >= 0).all(axis=1)]
    own = np.searchsorted(nodes, inside).astype(np.int32)
    return NodeProbe(features[nodes], own, nodes, free, int(np.searchsorted(nodes, focus)))


def padded(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays `(n_i,)` as one `(probes, largest n)`, padded with 0."""
    rows = np.zeros((len(parts), max(map(len, parts))), parts[0].dtype)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows


def node_occlusion(
    model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]
) -> list[NDArray[Any]]:
    """Return the drop of the logit of each probe's target without each node, `(n,)`.

    The drop is 0 for nodes that are always kept.
    """
    maps = []
    for probe, target, own in zip(probes, targets, model.occluded(probes), strict=True):
        falls = np.zeros(len(probe.nodes))
        falls[probe.free] = own[-1, target] - own[:-1, target]
        maps.append(falls)
    return maps


def gradient_input(
    model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]
) -> list[NDArray[Any]]:
    """Return the gradient of the logit in each node's features times the features, `(n,)`.

    It measures features only, not the effect of a node's edges. If the model divides each row of
    features by its sum, the scaled features are used: scaling a row before that division changes
    nothing, so gradient times input would be 0.
    """
    products = model.products(probes, targets)
    return [
        np.where(probe.free, values, 0.0) for probe, values in zip(probes, products, strict=True)
    ]


#: Attribution methods of nodes by name.
METHODS: dict[
    str, Callable[[NodeModel, Sequence[NodeProbe], Sequence[int]], list[NDArray[Any]]]
] = {
    "node-occlusion": node_occlusion,
    "gradient-x-input": gradient_input,
}


def node_maps(
    model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Return the values of the nodes `(probes, largest n)` by method, for each probe's target."""
    return {name: padded(method(model, probes, targets)) for name, method in METHODS.items()}


def node_score(model: NodeModel, probes: Sequence[NodeProbe], targets: Sequence[int]) -> Score:
    """Return the score of probes of which some nodes are kept: the probability of the target."""

    def score(examples: NDArray[np.intp], kept: NDArray[np.bool_]) -> NDArray[Any]:
        order = np.argsort(examples, kind="stable")
        logits = model.logits(
            [
                (probe, kept[examples == number, : len(probe.nodes)])
                for number, probe in enumerate(probes)
            ]
        )
        scores = np.empty(len(examples))
        scores[order] = probability(logits, np.asarray(targets)[examples[order]])
        return scores

    return score
