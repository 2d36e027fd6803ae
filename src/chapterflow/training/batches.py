"""Input pipelines: memory-mapped arrays -> batches, ordered only by seed and epoch; whole graphs.

In a whole graph the nodes are the examples, and one batch has them all.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset, Split, get_kind
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

#: Number of examples per forward pass without gradients.
FORWARD_BATCH = 128
#: Height and width of photos for a model without `size`.
PHOTO_SIZE = (224, 224)


def sized_for(entry: ChapterModel[Any], params: ModelParams, dataset: Dataset) -> Dataset:
    """Return the dataset with its photos decoded to the size that a model takes."""
    return dataset.sized(*(entry.size(params) if entry.size else PHOTO_SIZE))


def input_spec(entry: ChapterModel[Any], params: ModelParams, dataset: Dataset) -> InputSpec:
    """Return the spec for a build; photos have a fixed size unless the model resizes them."""
    spec = dataset.card.input_spec
    if get_kind(spec.kind).resized and entry.size is None:
        return dataclasses.replace(spec, shape=(*PHOTO_SIZE, *spec.shape[2:]))
    return spec


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """Return the order of the examples in an epoch.

    The order depends only on seed and epoch, so a resumed training sees the same order as an
    uninterrupted one.
    """
    return np.random.default_rng([seed, epoch]).permutation(count)


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Return the number of gradient steps that cover the train split once."""
    return math.ceil(len(dataset.indices("train")) / batch_size)


class TrainBatches:
    """Shuffled batches of the train split, one pass per epoch.

    Attributes:
        epoch: Epoch (from 0) that sets the order of the next pass; the training loop sets it.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, seed: int) -> None:
        self.epoch = 0
        self._dataset = dataset
        self._indices = dataset.indices("train")
        self._batch_size = batch_size
        self._seed = seed

    def as_tf(self) -> tf.data.Dataset:
        """Return batches of inputs and targets, with weights if the dataset has them."""
        return _as_tf(self._dataset, self._pass, len(self._indices), self._batch_size)

    def _pass(self) -> Iterator[tuple[Any, ...]]:
        order = epoch_order(len(self._indices), self._seed, self.epoch)
        yield from _gather(self._dataset, self._indices[order], self._batch_size)


def split_batches(dataset: Dataset, split: Split, *, batch_size: int) -> tf.data.Dataset:
    """Return one split's batches in stored order, shaped like those of `TrainBatches`."""
    indices = dataset.indices(split)
    return _as_tf(dataset, lambda: _gather(dataset, indices, batch_size), len(indices), batch_size)


def load_model(path: Path) -> keras.Model:
    """Return a saved model of this project, uncompiled, with the project's own layers."""
    import keras

    with zipfile.ZipFile(path) as archive:
        own_layers = b'"chapterflow>' in archive.read("config.json")
    if own_layers:
        from chapterflow.models import layers as custom_layers

        custom_layers.register()
    return keras.saving.load_model(path, compile=False)


def predict(model: keras.Model, dataset: Dataset, split: Split) -> NDArray[Any]:
    """Return a model's predictions `(n, ...)` for the examples of a split, in stored order."""
    if dataset.kind.whole:
        return predict_full(model, dataset)[dataset.indices(split)]
    batches = split_batches(dataset, split, batch_size=FORWARD_BATCH)
    # Only the inputs: Keras would read a batch of three as (inputs, targets, weights).
    predictions: NDArray[Any] = model.predict(batches.map(lambda inputs, *rest: inputs), verbose=0)
    return predictions


def _gather(
    dataset: Dataset, order: NDArray[np.intp], batch_size: int
) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(order), batch_size):
        yield _batch(dataset, order[start : start + batch_size])


def _batch(dataset: Dataset, indices: NDArray[np.intp]) -> tuple[Any, ...]:
    inputs, targets = dataset.inputs(indices), dataset.targets(indices)
    weights = dataset.weights(indices)
    return (inputs, targets) if weights is None else (inputs, targets, weights)


def _as_tf(dataset: Dataset, batches: Any, count: int, batch_size: int) -> tf.data.Dataset:
    import tensorflow as tf

    shapes = dataset.input_shapes()
    inputs = (
        {name: tf.TensorSpec(*spec) for name, spec in shapes.items()}
        if isinstance(shapes, dict)
        else tf.TensorSpec(*shapes)
    )
    signature = (inputs, *(tf.TensorSpec(*spec) for spec in dataset.target_shapes()))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    # Keras needs the number of batches to predict several batches in one execution.
    sized = stream.apply(tf.data.experimental.assert_cardinality(math.ceil(count / batch_size)))
    return sized.prefetch(4)


def sparse_inputs(dataset: Dataset) -> dict[str, Any]:
    """Return `features` `(n, f)` and `adjacency` `(n, n)` of a graph of nodes as `tf.SparseTensor`.

    Their values equal the dense values of `dataset.inputs`. They stay sparse up to the layers: only
    1.3 % of Cora's features are non-zero, and dense features take ten times as long.
    """
    import tensorflow as tf

    features = np.asarray(dataset.arrays["features"])
    rows, columns = np.nonzero(features)
    edges = np.unique(np.asarray(dataset.arrays["edges"], np.int64), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    count = dataset.count
    return {
        "features": tf.SparseTensor(
            np.stack([rows, columns], axis=1), features[rows, columns], features.shape
        ),
        "adjacency": tf.SparseTensor(edges, np.ones(len(edges), np.float32), (count, count)),
    }


def predict_full(model: Any, dataset: Dataset) -> NDArray[np.float32]:
    """Return a model's predictions `(n, classes)` for the nodes of all splits."""
    return np.asarray(forward(model)(sparse_inputs(dataset)), np.float32)


def forward(model: Any) -> Callable[[Any], Any]:
    """Return a model as a compiled function of sparse inputs."""
    import tensorflow as tf

    compiled: Callable[[Any], Any] = tf.function(lambda inputs: model(inputs, training=False))
    return compiled
