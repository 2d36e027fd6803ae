"""Sources of batches, ordered only by seed and epoch, and whole graphs.

In a whole graph the nodes are the examples, and one batch has them all.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError
from chapterflow.kinds.dataset import Dataset, Split, get_kind
from chapterflow.kinds.edges import offsets
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams

if TYPE_CHECKING:
    import keras

#: Number of examples per forward pass without gradients.
FORWARD_BATCH = 128
#: Largest size, in bytes, of the examples of a split that are read into memory before training.
#: Larger splits are streamed. Reading a split needs a copy, so the peak is twice as large: with
#: TensorFlow's 0.6 GB, a training stays within 1.5 GB.
IN_MEMORY = 384 << 20
#: Threads that read batches of a streamed split, and batches that wait for the model. Reading
#: waits for the disk and for decoders, which release the GIL.
READERS = max(2, min(4, os.cpu_count() or 1))
#: Bytes of a block of batches that is read at once.
BLOCK = 8 << 20
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


class Source(Protocol):
    """The examples of a split, which a compiled loop reads in batches.

    Attributes:
        count: Number of examples.
        steps: Number of batches.
    """

    count: int
    steps: int

    def start(self, order: NDArray[np.intp]) -> Any:
        """Return what `batch` needs to read the examples in an order: tensors or an iterator."""
        ...

    def batch(self, state: Any, number: Any) -> tuple[Any, ...]:
        """Return inputs, targets and any weights of the next batch; called in a `tf.function`.

        Args:
            state: Returned by `start`.
            number: Number of the batch, from 0; batches are read in ascending order.
        """
        ...


def source_of(dataset: Dataset, split: Split, *, batch_size: int) -> Source:
    """Return the examples of a split: in memory if they fit, streamed otherwise.

    Examples of varying shape are always streamed, except for graphs.
    """
    indices = dataset.indices(split)
    if dataset.kind.joined:
        arrays = dataset.arrays["features"], dataset.arrays["edges"]
        # Gathering the graphs of an epoch takes twice as much as they have; streaming takes no
        # longer.
        fits = 2 * sum(array.nbytes for array in arrays) <= IN_MEMORY
        return (JoinedGraphs if fits else Streamed)(dataset, indices, batch_size)
    # The first examples of a split are as large as all others.
    example = sum(part.nbytes for part in _flat(_batch(dataset, indices[:1])))
    varying = any(None in shape[1:] for shape, _ in _flat_shapes(dataset))
    kept = Streamed if varying or example * len(indices) > IN_MEMORY else InMemory
    return kept(dataset, indices, batch_size)


class InMemory(Source):
    """Examples as tensors of their stored type; the compiled loop gathers and casts batches."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.intp], batch_size: int) -> None:
        import tensorflow as tf

        self.count, self.steps = len(indices), math.ceil(len(indices) / batch_size)
        self._size = batch_size
        self._types = [dtype for _, dtype in _flat_shapes(dataset)]
        parts = [tf.constant(part) for part in _flat(_batch(dataset, indices))]
        self._arrays = parts
        self._packed = _packer(dataset)

    def start(self, order: NDArray[np.intp]) -> Any:
        """Return the order as a tensor."""
        import tensorflow as tf

        return tf.constant(order, tf.int64)

    def batch(self, state: Any, number: Any) -> tuple[Any, ...]:
        """Gather the examples of a batch."""
        import tensorflow as tf

        first = number * self._size
        chosen = state[first : tf.minimum(first + self._size, self.count)]
        return self._packed(
            [
                tf.cast(tf.gather(array, chosen), dtype)
                for array, dtype in zip(self._arrays, self._types, strict=True)
            ]
        )


class JoinedGraphs(Source):
    """Graphs whose batches are joined: all are gathered once an epoch, and cut into batches.

    Attributes:
        count: Number of graphs.
        steps: Number of batches.
    """

    def __init__(self, dataset: Dataset, indices: NDArray[np.intp], batch_size: int) -> None:
        self.count, self.steps = len(indices), math.ceil(len(indices) / batch_size)
        self._dataset, self._indices, self._size = dataset, indices, batch_size

    def start(self, order: NDArray[np.intp]) -> Any:
        """Return the graphs, joined in an order, as tensors that `batch` cuts."""
        chosen = self._indices[order]
        starts = range(0, len(chosen), self._size)
        return joined(self._dataset, [chosen[start : start + self._size] for start in starts])

    def batch(self, state: Any, number: Any) -> tuple[Any, ...]:
        """Return inputs and targets of a batch; called in a `tf.function`."""
        import tensorflow as tf

        begin, end = tf.unstack(state["cuts"][number]), tf.unstack(state["cuts"][number + 1])
        inputs = {
            "features": state["features"][begin[0] : end[0]],
            "edges": state["edges"][begin[1] : end[1]] - begin[0],
            "sizes": state["sizes"][begin[2] : end[2]],
        }
        return inputs, state["targets"][begin[2] : end[2]]

    def specs(self) -> Any:
        """Return the specs of the result of `start`, for graphs of any size."""
        import tensorflow as tf

        shapes = self._dataset.input_shapes() | {
            "targets": ((None,), "int32"),
            "cuts": ((None, 3), "int32"),
        }
        return {name: tf.TensorSpec(*shape) for name, shape in shapes.items()}


def joined(dataset: Dataset, batches: Sequence[NDArray[np.intp]]) -> Any:
    """Return batches of graphs as tensors that `JoinedGraphs.batch` cuts."""
    import tensorflow as tf

    chosen = np.concatenate(batches)
    inputs, targets = dataset.inputs(chosen), dataset.targets(chosen)
    first = offsets([len(batch) for batch in batches])
    nodes = offsets(inputs["sizes"])[first]
    # Edges are sorted by their source, so those of a batch are next to each other. Numbers of
    # another type would be compared with a copy of all edges.
    edges = np.searchsorted(inputs["edges"][:, 0], nodes.astype(np.int32))
    cuts = np.stack([nodes, edges, first], axis=1).astype(np.int32)
    return {name: tf.constant(array) for name, array in inputs.items()} | {
        "targets": tf.constant(targets),
        "cuts": tf.constant(cuts),
    }


class Streamed(Source):
    """Examples that several threads read a few batches ahead of the model."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.intp], batch_size: int) -> None:
        import tensorflow as tf

        self.count, self.steps = len(indices), math.ceil(len(indices) / batch_size)
        self._order = np.arange(self.count)
        #: The error of a reader: TensorFlow would report it as text.
        self.fault: ChapterflowError | None = None
        shapes = _flat_shapes(dataset)
        self._types = [dtype for _, dtype in shapes]
        self._packed = _packer(dataset)

        def parts() -> Iterator[NDArray[np.intp]]:
            for first in range(0, self.count, block):
                yield indices[self._order[first : first + block]]

        def read(chosen: NDArray[np.intp]) -> list[NDArray[Any]]:
            try:
                return _flat(_batch(dataset, chosen))
            except ChapterflowError as fault:
                self.fault = fault
                raise

        # A batch arrives in its stored type.
        example = _flat(_batch(dataset, indices[:1]))
        stored = [part.dtype for part in example]
        varying = dataset.kind.joined or any(None in shape[1:] for shape, _ in shapes)
        # Examples of one shape are read in blocks of batches: each call of Python holds the GIL.
        size = batch_size * sum(part.nbytes for part in example)
        block = batch_size * (1 if varying else max(1, BLOCK // size))

        def load(chosen: Any) -> tuple[Any, ...]:
            arrays = tf.numpy_function(read, [chosen], stored)
            for array, (shape, _) in zip(arrays, shapes, strict=True):
                array.set_shape(shape)
            return tuple(arrays)

        def cut(*arrays: Any) -> Any:
            count = tf.cast(tf.shape(arrays[0])[0], tf.int64)
            return tf.data.Dataset.range(0, count, batch_size).map(
                lambda first: tuple(array[first : first + batch_size] for array in arrays)
            )

        stream = tf.data.Dataset.from_generator(
            parts, output_signature=tf.TensorSpec([None], tf.int64)
        )
        read_ahead = stream.map(load, num_parallel_calls=READERS).prefetch(READERS)
        self._stream = read_ahead if varying else read_ahead.flat_map(cut)

    def start(self, order: NDArray[np.intp]) -> Any:
        """Return an iterator over the batches."""
        self._order, self.fault = order, None
        return iter(self._stream)

    def batch(self, state: Any, number: Any) -> tuple[Any, ...]:
        """Return the next batch of the iterator."""
        import tensorflow as tf

        arrays = state.get_next()
        return self._packed(
            [tf.cast(array, dtype) for array, dtype in zip(arrays, self._types, strict=True)]
        )


@contextmanager
def faults_of(source: Source) -> Iterator[None]:
    """Raise the original error of a reader, which TensorFlow reports as text."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        fault = getattr(source, "fault", None)
        raise (fault or error) from None


def load_model(path: Path) -> keras.Model:
    """Return a saved model of this project, uncompiled, with the project's own layers."""
    import keras

    with zipfile.ZipFile(path) as archive:
        own_layers = b'"chapterflow>' in archive.read("config.json")
    if own_layers:
        from chapterflow.models import layers as custom_layers

        custom_layers.register()
    return reads_edges(keras.saving.load_model(path, compile=False))


def reads_edges(model: keras.Model) -> keras.Model:
    """Return a model that takes the inputs of graph datasets: edges, not an adjacency matrix."""
    if not isinstance(model.input, dict) or "adjacency" not in model.input:
        return model
    from chapterflow.models.layers import graph_convolution

    return graph_convolution.reads_edges(model)


def compiled_forward(model: keras.Model, shapes: Any) -> Callable[[Any], Any]:
    """Return a model as a compiled function that is traced once for all batch sizes.

    Args:
        model: Model with any inputs.
        shapes: Shape and dtype of each input, in the structure of `Dataset.input_shapes`.
    """
    import tensorflow as tf

    specs = (
        {name: tf.TensorSpec(*spec) for name, spec in shapes.items()}
        if isinstance(shapes, dict)
        else tf.TensorSpec(*shapes)
    )
    compiled: Callable[[Any], Any] = tf.function(
        lambda values: model(values, training=False), input_signature=[specs], autograph=False
    )
    return compiled


def compiled(model: keras.Model, dataset: Dataset) -> Callable[[Any], Any]:
    """Return a model as a compiled function of the inputs of a dataset, traced once."""
    return forward(model) if dataset.kind.whole else compiled_forward(model, dataset.input_shapes())


def predict(
    model: keras.Model | Callable[[Any], Any], dataset: Dataset, split: Split
) -> NDArray[Any]:
    """Return a model's predictions `(n, ...)` for the examples of a split, in stored order.

    Args:
        model: A model, or what `compiled` returned.
    """
    import keras
    import tensorflow as tf

    answers = compiled(model, dataset) if isinstance(model, keras.Model) else model
    if dataset.kind.whole:
        answered = np.asarray(answers(sparse_inputs(dataset)), np.float32)
        return answered[dataset.indices(split)]
    source = source_of(dataset, split, batch_size=FORWARD_BATCH)
    state = source.start(np.arange(source.count))
    with faults_of(source):
        return np.concatenate(
            [
                np.asarray(answers(source.batch(state, tf.constant(number))[0]))
                for number in range(source.steps)
            ]
        )


def _batch(dataset: Dataset, indices: NDArray[np.intp]) -> tuple[Any, ...]:
    inputs, targets = dataset.stored(indices), dataset.targets(indices)
    weights = dataset.weights(indices)
    return (inputs, targets) if weights is None else (inputs, targets, weights)


def _flat(batch: tuple[Any, ...]) -> list[NDArray[Any]]:
    """Return the arrays of a batch in the order of `_flat_shapes`."""
    inputs, *rest = batch
    arrays = [inputs[name] for name in sorted(inputs)] if isinstance(inputs, dict) else [inputs]
    return [*arrays, *rest]


def _flat_shapes(dataset: Dataset) -> list[tuple[tuple[int | None, ...], str]]:
    """Return shape and dtype of the inputs (by name), the targets, and any weights."""
    shapes = dataset.input_shapes()
    inputs = [shapes[name] for name in sorted(shapes)] if isinstance(shapes, dict) else [shapes]
    return [*inputs, *dataset.target_shapes()]


def _packer(dataset: Dataset) -> Callable[[list[Any]], tuple[Any, ...]]:
    """Return the reverse of `_flat`."""
    shapes = dataset.input_shapes()
    if not isinstance(shapes, dict):
        return tuple
    names = sorted(shapes)
    return lambda flat: (dict(zip(names, flat, strict=False)), *flat[len(names) :])


def sparse_inputs(dataset: Dataset) -> dict[str, Any]:
    """Return a whole graph with its `features` `(n, f)` as a `tf.SparseTensor`.

    Their values equal the dense values of `dataset.inputs`. They stay sparse up to the layers: only
    1.3 % of Cora's features are non-zero, and dense features take ten times as long.
    """
    import tensorflow as tf

    inputs = dataset.inputs(np.arange(0))
    features = inputs["features"]
    rows, columns = np.nonzero(features)
    sparse = tf.SparseTensor(
        np.stack([rows, columns], axis=1), features[rows, columns], features.shape
    )
    return {"features": sparse, "edges": tf.constant(inputs["edges"])}


def predict_full(model: Any, dataset: Dataset) -> NDArray[np.float32]:
    """Return a model's predictions `(n, classes)` for the nodes of all splits."""
    return np.asarray(forward(model)(sparse_inputs(dataset)), np.float32)


def forward(model: Any) -> Callable[[Any], Any]:
    """Return a model as a compiled function of sparse inputs."""
    import tensorflow as tf

    compiled: Callable[[Any], Any] = tf.function(
        lambda inputs: model(inputs, training=False), autograph=False
    )
    return compiled
