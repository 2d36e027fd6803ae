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

    Variants of small graphs are joined into one graph, so that no padding is needed. Variants of a
    node's neighbourhood share its features and differ in their edges, since a node without edges
    affects no other; TensorFlow computes them side by side. All passes share one compiled function.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras
        import tensorflow as tf

        from chapterflow.models.layers.graph_convolution import mapped

        self.model = model
        scaled = [layer for layer in model.layers if type(layer).__name__ in SCALING]
        features = scaled[0].output if scaled else model.input["features"]
        inner = keras.Model(model.input, [features, model.output])
        width = model.input["features"].shape[-1]
        specs = {
            "features": tf.TensorSpec((None, width), tf.float32),
            "edges": tf.TensorSpec((None, 2), tf.int32),
            "sizes": tf.TensorSpec((None,), tf.int32),
        }
        inputs = {name: specs[name] for name in model.input}
        rows = tf.TensorSpec((None,), tf.int32)

        @tf.function(autograph=False, input_signature=[inputs, rows])  # type: ignore[untyped-decorator]
        def logits(inputs: Any, rows: Any) -> Any:
            return tf.gather(model(inputs, training=False), rows)

        @tf.function(autograph=False, input_signature=[inputs, rows, rows])  # type: ignore[untyped-decorator]
        def products(inputs: Any, rows: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs["features"])
                scaled, outputs = inner(inputs, training=False)
                chosen = tf.gather(outputs, rows)
                total = tf.reduce_sum(tf.gather(chosen, targets, axis=1, batch_dims=1))
            return tf.reduce_sum(tape.gradient(total, scaled) * scaled, axis=1)

        variants = [specs["features"], tf.TensorSpec((None, None, 2), tf.int32)]

        @tf.function(  # type: ignore[untyped-decorator]
            autograph=False, input_signature=[*variants, tf.TensorSpec((), tf.int32)]
        )
        def focus_logits(features: Any, edges: Any, focus: Any) -> Any:
            entries = tf.sparse.from_dense(features)

            def one_variant(edges: Any) -> Any:
                return model({"features": entries, "edges": edges}, training=False)[focus]

            # What depends on the features alone is computed once for all variants.
            with mapped():
                return tf.vectorized_map(one_variant, edges, warn=False)

        self._logits, self._products, self._focus_logits = logits, products, focus_logits

    def logits(self, probe: NodeProbe, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return logits `(m, classes)` of a probe with the nodes `(m, n)` kept."""
        return self.all_logits([(probe, kept)])

    def all_logits(self, variants: Sequence[tuple[NodeProbe, NDArray[np.bool_]]]) -> NDArray[Any]:
        """Return logits of the variants of several probes, one probe after the other."""
        parts = []
        for probe, kept in variants:
            step = max(1, NODES // len(probe.nodes))
            parts += [(probe, kept[start : start + step]) for start in range(0, len(kept), step)]
        if "sizes" not in self.model.input:
            return np.concatenate(
                [
                    self._focus_logits(*_edges_of_variants(probe, kept), probe.focus)
                    for probe, kept in parts
                ]
            )
        logits = []
        while parts:
            batch: list[tuple[NodeProbe, NDArray[np.bool_]]] = []
            nodes = 0
            while parts and (not batch or nodes + parts[0][1].size <= NODES):
                nodes += parts[0][1].size
                batch.append(parts.pop(0))
            inputs, rows = self._joined([_variants(*part) for part in batch])
            logits.append(np.asarray(self._logits(inputs, rows)))
        return np.concatenate(logits)

    def products(self, probes: Sequence[NodeProbe], targets: Sequence[int]) -> list[NDArray[Any]]:
        """Return gradient times input of each probe, summed over the features, `(n,)`."""
        whole = [_variants(probe, np.ones((1, len(probe.nodes)), bool)) for probe in probes]
        inputs, rows = self._joined(whole)
        products = np.asarray(self._products(inputs, rows, np.asarray(targets, np.int32)))
        return np.split(products, np.cumsum([len(probe.nodes) for probe in probes])[:-1])

    def _joined(self, parts: Sequence[_Variants]) -> tuple[dict[str, Any], NDArray[np.int32]]:
        """Return inputs of the model, and the rows of its outputs that belong to the variants."""
        sizes = np.concatenate([part.sizes for part in parts])
        first = offsets([len(part.features) for part in parts])
        inputs = {
            "features": np.concatenate([part.features for part in parts]),
            "edges": np.concatenate(
                [part.edges + start for part, start in zip(parts, first[:-1], strict=True)]
            ).astype(np.int32),
            "sizes": sizes.astype(np.int32),
        }
        rows = np.arange(len(sizes))
        if "sizes" not in self.model.input:
            del inputs["sizes"]
            rows = np.concatenate(
                [part.focus + start for part, start in zip(parts, first[:-1], strict=True)]
            )
        return inputs, rows.astype(np.int32)


@dataclass(frozen=True)
class _Variants:
    """Variants of a probe joined into one graph: its inputs, and the rows of the focus in it."""

    features: NDArray[Any]
    edges: NDArray[Any]
    sizes: NDArray[Any]
    focus: NDArray[Any]


def _variants(probe: NodeProbe, kept: NDArray[np.bool_]) -> _Variants:
    """Return a probe with the nodes `(m, n)` kept; a removed node loses its edges."""
    # Number of each kept node in the one graph of all variants.
    places = np.cumsum(kept.reshape(-1)).reshape(kept.shape) - 1
    source, target = probe.edges[:, 0], probe.edges[:, 1]
    variant, edge = np.nonzero(kept[:, source] & kept[:, target])
    ends = places[variant, source[edge]], places[variant, target[edge]]
    # Dense features: searching for zeros would take longer than multiplying by them.
    features = probe.features[np.nonzero(kept)[1]]
    focus = places[:, 0 if probe.focus is None else probe.focus]
    return _Variants(features, np.stack(ends, axis=1), kept.sum(axis=1), focus)


def _edges_of_variants(
    probe: NodeProbe, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the features of a probe and one more node, and the edges `(m, e, 2)` of its variants.

    The edges of removed nodes lead from the additional node to itself. They are last, since edges
    are sorted.

    Args:
        kept: Nodes that each variant keeps, `(m, n)`.
    """
    remaining = kept[:, probe.edges].all(axis=2)
    order = np.argsort(~remaining, axis=1, kind="stable")
    edges = np.where(
        np.take_along_axis(remaining, order, axis=1)[..., np.newaxis],
        probe.edges[order],
        len(probe.nodes),
    )
    return np.pad(probe.features, [(0, 1), (0, 0)]), edges.astype(np.int32)


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
    variants = []
    for probe in probes:
        free = np.flatnonzero(probe.free)
        kept = np.ones((len(free) + 1, len(probe.nodes)), bool)
        kept[np.arange(len(free)), free] = False
        variants.append((probe, kept))
    logits = np.split(
        model.all_logits(variants), np.cumsum([len(kept) for _, kept in variants])[:-1]
    )
    maps = []
    for probe, target, own in zip(probes, targets, logits, strict=True):
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
        logits = model.all_logits(
            [
                (probe, kept[examples == number, : len(probe.nodes)])
                for number, probe in enumerate(probes)
            ]
        )
        scores = np.empty(len(examples))
        scores[order] = probability(logits, np.asarray(targets)[examples[order]])
        return scores

    return score
