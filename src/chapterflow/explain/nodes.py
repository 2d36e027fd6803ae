"""Which nodes a graph network decides by: taken away, by the gradient, and their picture.

A node is taken away as if it had never been there, with its edges; nothing is left in its place,
so no value has to stand for "nothing".

Occlusion of nodes follows Zeiler & Fergus (ECCV 2014); gradient x input: Shrikumar et al.,
"Not just a black box" (2016); both on graphs: Pope et al., "Explainability methods for graph
convolutional neural networks", CVPR (2019).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, RED, Canvas, coloured
from chapterflow.explain.explanation import Explanation, Picture, probes
from chapterflow.explain.faithfulness import (
    NOISE,
    Faithfulness,
    Score,
    as_details,
    as_metrics,
    faithfulness,
    judge,
    probability,
    with_scores,
)
from chapterflow.explain.overlays import score_text
from chapterflow.explain.untrained import check_trained
from chapterflow.kinds.dataset import Dataset

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
    if not dataset.kind.whole:
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


TILE, GAP, NAMES, MARGIN, HEADING, COLUMN, LINE = 330, 30, 195, 20, 80, 46, 34
#: Graphs of so many nodes or fewer have their nodes numbered.
NUMBERED = 40


def draw_nodes(
    given: Sequence[NodeProbe],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    captions: Sequence[str],
    faithful: Mapping[str, Faithfulness],
    doubts: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """Draw a row for each graph, a column for each method.

    Args:
        given: The graphs.
        maps: Values of the nodes `(graphs, nodes)` by method.
        title: Heading.
        path: Image to write.
        captions: What each graph is and what the model says.
        faithful: How the maps fare, by method.
        doubts: What speaks against each method.
        seed: Of the layout.
    """
    top = MARGIN + HEADING + COLUMN
    width = max(820, 2 * MARGIN + NAMES + len(maps) * (TILE + GAP))
    canvas = Canvas(width, top + len(given) * (TILE + LINE) + 6)
    ring = any(one.focus is not None for one in given)
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(
        MARGIN,
        MARGIN + 26,
        "Red nodes raise the class that the model says, blue ones lower it; each graph has its own "
        f"scale.{' Black ring: the node whose class it is.' if ring else ''}\n"
        "del: area under its probability while the nodes marked most go first (low is good); ins: "
        "while they come first (high is good).",
        color=GREY,
    )
    for column, name in enumerate(maps):
        x = MARGIN + NAMES + column * (TILE + GAP) + TILE / 2
        canvas.text(x, top - COLUMN + 6, name, size=10, ha="center", weight="bold")
        said = ", ".join(doubts.get(name, ()))
        if said:
            canvas.text(x, top - COLUMN + 23, said, size=8, ha="center", color=RED)
    for number, probe in enumerate(given):
        y = top + number * (TILE + LINE)
        canvas.text(MARGIN, y + TILE / 2, captions[number], va="center")
        shown = probe.free.copy()
        if probe.focus is not None:
            shown[probe.focus] = True
        places = layout(probe, shown, seed)
        edges = np.argwhere(np.triu((probe.adjacency + probe.adjacency.T)[np.ix_(shown, shown)], 1))
        for column, (name, values) in enumerate(maps.items()):
            x = MARGIN + NAMES + column * (TILE + GAP)
            own = values[number, : len(probe.nodes)][shown]
            limit = float(np.abs(own).max())
            colours = coloured(own, -limit, limit, "bwr") / 255.0
            at = places * TILE + (x, y)
            size = float(np.clip(2400 / len(at), 14, 110))
            canvas.graph(at, edges, colours, size)
            if probe.focus is not None:
                inside = int(shown[: probe.focus].sum())
                canvas.ring(at[inside], size * 1.6)
            if len(at) <= NUMBERED:
                for (px, py), node in zip(at, probe.nodes[shown], strict=True):
                    canvas.text(px, py, str(node), size=6, ha="center", va="center")
            text, colour = score_text(faithful[name], number)
            text = text.replace("\n", ": ")
            canvas.text(x + TILE / 2, y + TILE + 6, text, size=8, ha="center", color=colour)
    canvas.save(path)


def layout(probe: NodeProbe, shown: NDArray[np.bool_], seed: int) -> NDArray[Any]:
    """Return places in the unit square `(n, 2)`, linked nodes near each other."""
    import networkx

    graph = networkx.from_numpy_array(probe.adjacency[np.ix_(shown, shown)] != 0)
    # What is linked to nothing would drift so far away that the rest is drawn tiny.
    first, *others = sorted(networkx.connected_components(graph), key=len, reverse=True)
    for other in others:
        graph.add_edge(min(first), min(other))
    found = networkx.spring_layout(graph, seed=seed, iterations=60)
    places = np.array([found[node] for node in range(len(found))])
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(0.03 + 0.94 * (places - low) / np.where(high > low, high - low, 1))


#: Graphs at most, and of these held against random weights and noise.
MOST, RANDOMISED = 4, 2


def node_occlusion(model: NodeModel, probe: NodeProbe, target: int) -> NDArray[Any]:
    """Return by how much the logit falls without each node, `(n,)`; 0 where it must stay."""
    count = len(probe.nodes)
    free = np.flatnonzero(probe.free)
    kept = np.ones((len(free) + 1, count), bool)
    kept[np.arange(len(free)), free] = False
    out = model.logits(probe, kept)[:, target]
    found = np.zeros(count)
    found[free] = out[-1] - out[:-1]
    return found


def gradient_input(model: NodeModel, probe: NodeProbe, target: int) -> NDArray[Any]:
    """Return the gradient of the logit in each node's features times these, summed, `(n,)`.

    It sees features only: what a node does by its edges alone is not in it. Where the model divides
    each row of features by its sum, the features behind that count: before it, a longer row is the
    same row, and gradient times input is 0.
    """
    import tensorflow as tf

    x = tf.convert_to_tensor(probe.features)
    with tf.GradientTape() as tape:
        tape.watch(x)
        # Keras takes tensors or arrays, not both at once.
        inputs = {k: tf.convert_to_tensor(v) for k, v in model.inputs(probe, x).items()}
        seen, out = model.with_features(inputs)
        answer = model.answer(probe, out)[target]
    found = np.asarray(tape.gradient(answer, seen) * seen).reshape(len(probe.nodes), -1).sum(axis=1)
    return np.where(probe.free, found, 0.0)


METHODS: dict[str, Callable[[NodeModel, NodeProbe, int], NDArray[Any]]] = {
    "node-occlusion": node_occlusion,
    "gradient-x-input": gradient_input,
}


def node_score(model: NodeModel, given: Sequence[NodeProbe], targets: Sequence[int]) -> Score:
    """Return how probes are scored of which some nodes are kept: the probability of the target."""

    def score(which: NDArray[np.intp], kept: NDArray[np.bool_]) -> NDArray[Any]:
        found = np.empty(len(which))
        for number, probe in enumerate(given):
            own = which == number
            out = model.logits(probe, kept[own, : len(probe.nodes)])
            found[own] = probability(out, np.full(len(out), targets[number]))
        return found

    return score


def explain_nodes(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    *,
    seed: int,
    title: str,
    tell: Callable[[str], None] = lambda detail: None,
) -> Explanation:
    """Explain what a model says of graphs, or of nodes of one graph; see `explain`.

    Raises:
        Untrained: If the model has the weights that it was built with.
    """
    check_trained(model)
    chosen = probes(dataset)[:MOST]
    tell("nodes")
    wrapped, given = node_probes(model, dataset, chosen)
    whole = [wrapped.logits(one, np.ones((1, len(one.nodes)), bool)) for one in given]
    logits = np.concatenate(whole)
    targets = logits.argmax(axis=1)
    confidence = probability(logits, targets)

    def maps(used: Sequence[NodeProbe]) -> dict[str, NDArray[Any]]:
        return {
            name: padded(
                [
                    method(wrapped, one, int(target))
                    for one, target in zip(used, targets, strict=False)
                ]
            )
            for name, method in METHODS.items()
        }

    found = maps(given)
    free = padded([one.free for one in given])
    faithful = faithfulness(
        node_score(wrapped, given, targets.tolist()), found, seed=seed, free=free
    )
    tell("checks of the nodes")
    few = given[:RANDOMISED]
    noisy = [_noisy(one, dataset.card.value_max, seed) for one in few]
    where = padded([one.free for one in few])
    judged = judge(
        model, lambda noise: maps(noisy if noise else few), faithful, seed=seed, where=where
    )
    classes = dataset.card.classes
    true = [classes[int(one)] for one in dataset.labels[chosen]]
    said = [classes[int(one)] for one in targets]
    path = folder / "nodes.png"
    draw_nodes(
        given,
        found,
        f"{title}: the nodes that speak for the answer",
        path,
        captions=[
            f"{'graph' if one.focus is None else 'node'} {index}\ntrue: {truth}\n"
            f"model: {guess}, {sure:.2f}"
            for one, index, truth, guess, sure in zip(
                given, chosen, true, said, confidence, strict=True
            )
        ],
        faithful=faithful,
        doubts={name: one.doubts for name, one in judged.items()},
        seed=seed,
    )
    believed = [name for name, one in faithful.items() if one.beats_random]
    rows = [
        {
            "index": int(index),
            "class": truth,
            "predicted": guess,
            "confidence": float(sure),
            "most": [int(one.nodes[place]) for place in np.argsort(-values[: len(one.nodes)])[:5]],
        }
        for index, truth, guess, sure, one, values in zip(
            chosen, true, said, confidence, given, found["node-occlusion"], strict=True
        )
    ]
    return Explanation(
        metrics=as_metrics(judged),
        pictures=[
            Picture(
                key="nodes",
                step=0,
                path=path,
                caption=f"{len(given)} graphs whose nodes are coloured by how much they speak for "
                f"the model's answer; better than random orders: {', '.join(believed) or 'none'}.",
            )
        ],
        details={
            "probes": with_scores(rows, faithful),
            "layers": [],
            "methods": as_details(judged),
        },
    )


def _noisy(probe: NodeProbe, value_max: float, seed: int) -> NodeProbe:
    import dataclasses

    noise = np.random.default_rng([seed, 7]).normal(0, NOISE * value_max, probe.features.shape)
    features = np.asarray(probe.features + noise, np.float32)
    return dataclasses.replace(probe, features=features)
