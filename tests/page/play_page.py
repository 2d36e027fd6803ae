"""A playground of untrained models and real digits, made without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chapterflow.kinds.dataset import Dataset
from chapterflow.page.network import Network
from chapterflow.page.playground import Loaded, examples, fitted, graph, pen
from chapterflow.tracking.records import LeftOut
from chapterflow.tracking.versions import Version
from tests.page import page_runs

Layers = Sequence[tuple[str, str, dict[str, Any], list[tuple[int, ...]]]]


def network(layers: Layers, seed: int = 0) -> Network:
    """Return layers in a row, each with its name, type, settings and shapes of weights."""
    random = np.random.default_rng(seed)
    rows, weights, previous = [], [], []
    for name, kind, settings, shapes in layers:
        rows.append(
            {
                "name": name,
                "type": kind,
                "inputs": previous,
                "settings": settings,
                "weights": [list(shape) for shape in shapes],
            }
        )
        weights += [random.normal(0, 0.2, int(np.prod(shape))) for shape in shapes]
        previous = [name]
    return Network(rows, previous[0], np.concatenate(weights).astype(np.float32))


def loaded(name: str, layers: Layers, dataset: Dataset, seed: int, wrong: float) -> Loaded:
    version = Version(name, "1", "champion", "0" * 32, name, "models:/m-0")
    model = Loaded(version, dataset.card, network(layers, seed), 1 - wrong)
    model.__dict__["predictions"] = page_runs.answers(dataset, wrong, seed)
    return model


SCALE = ("rescale", "Rescaling", {"scale": 1 / 16, "offset": 0.0}, [])
DENSE: Layers = [
    ("pixels", "InputLayer", {"shape": [8, 8, 1]}, []),
    SCALE,
    ("flatten", "Flatten", {}, []),
    ("hidden", "Dense", {"activation": "relu"}, [(64, 12), (12,)]),
    ("logits", "Dense", {"activation": "linear"}, [(12, 10), (10,)]),
]
CONVOLUTION = {"strides": [1, 1], "padding": "same", "dilation_rate": [1, 1], "activation": "relu"}
POOLING = {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
CONVOLUTIONAL: Layers = [
    ("pixels", "InputLayer", {"shape": [8, 8, 1]}, []),
    SCALE,
    ("conv1", "Conv2D", {**CONVOLUTION, "kernel_size": [3, 3]}, [(3, 3, 1, 6), (6,)]),
    ("pool1", "MaxPooling2D", POOLING, []),
    ("conv2", "Conv2D", {**CONVOLUTION, "kernel_size": [3, 3]}, [(3, 3, 6, 8), (8,)]),
    ("average", "GlobalAveragePooling2D", {}, []),
    ("logits", "Dense", {"activation": "linear"}, [(8, 10), (10,)]),
]


def make_models(dataset: Dataset) -> list[Loaded]:
    """Return a dense and a convolutional model."""
    return [
        loaded("dnn", DENSE, dataset, 1, 0.2),
        loaded("cnn", CONVOLUTIONAL, dataset, 2, 0.1),
    ]


def make_page(folder: Path, third: bool = False) -> str:
    """Return the page of both models or three, with a graph and a model of nodes."""
    dataset = page_runs.make_data(folder)
    models = make_models(dataset)
    if third:
        models.append(loaded("lenet5", CONVOLUTIONAL, dataset, 3, 0.3))
    club = graph(None, None)
    convolution = {"activation": "relu", "neighbours": True}
    node_layers = network(
        [
            ("features", "InputLayer", {"shape": [34]}, []),
            ("conv1", "GraphConvolution", convolution, [(34, 4), (4,)]),
            ("logits", "GraphConvolution", {**convolution, "activation": "linear"}, [(4, 2), (2,)]),
        ]
    )
    rows = [{**row} for row in node_layers.layers]
    rows.insert(1, {**rows[0], "name": "edges"})
    for row in rows[2:]:
        row["inputs"] = [*row["inputs"], "edges"]
    club["model"] = Network(rows, "logits", node_layers.weights).document(4)
    club["modelMissing"] = ""
    page, _, _ = fitted(
        models,
        {
            "examples": examples(dataset, models),
            "pen": pen(dataset),
            "valueMax": dataset.card.value_max,
            "graph": club,
        },
        [LeftOut(model="hub/1", reason="it learnt photos")] if third else [],
    )
    return page
