"""Which nodes a graph network decides by: by taking them away, and by the gradient.

Occlusion of nodes follows Zeiler & Fergus (ECCV 2014); gradient x input: Shrikumar et al.,
"Not just a black box" (2016); both on graphs: Pope et al., "Explainability methods for graph
convolutional neural networks", CVPR (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset
from chapterflow.explain.drawn_nodes import draw_nodes
from chapterflow.explain.explanation import Explanation, Picture
from chapterflow.explain.faithfulness import Score, faithfulness, probability
from chapterflow.explain.judging import NOISE, as_details, as_metrics, judge, with_scores
from chapterflow.explain.node_probes import NodeModel, NodeProbe, node_probes, padded
from chapterflow.explain.probes import probes
from chapterflow.explain.trained import check_trained

if TYPE_CHECKING:
    import keras

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
