"""The cost of a model: parameters, floating-point operations, latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.evaluation.scores import Metrics
from chapterflow.kinds.dataset import Dataset
from chapterflow.training.batches import sparse_inputs

if TYPE_CHECKING:
    import keras


def flops(model: keras.Model, example: Any = None) -> int:
    """Return the floating-point operations of a forward pass of one example.

    TensorFlow's profiler counts the frozen graph; a multiplication with an addition counts as two.
    Sums over edges and products with sparse matrices count their entries, not the zeros between.

    Args:
        model: Model with any inputs.
        example: Inputs with a batch axis of 1; required if the model has other axes of None.
    """
    import logging

    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if example is None:
        example = keras.tree.map_structure(
            lambda x: tf.TensorSpec((1, *x.shape[1:]), x.dtype), model.input
        )
    specs = keras.tree.map_structure(_spec, example)
    _register_sparse_operations()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def forward(parts: Any) -> Any:
        inputs = keras.tree.map_structure_up_to(example, _input, parts, example)
        return model(inputs, training=False)

    graph = convert_variables_to_constants_v2(forward.get_concrete_function(specs)).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the profiler itself uses deprecated names
    try:
        return int(
            profiler.profile(graph, options=options.with_empty_output().build()).total_float_ops
        )
    finally:
        logger.setLevel(level)


def _spec(value: Any) -> Any:
    """Return the spec of an input; for a sparse one, of its indices and values."""
    import keras
    import tensorflow as tf

    parts = [value.indices, value.values] if isinstance(value, tf.SparseTensor) else value
    return keras.tree.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), parts)


def _input(part: Any, value: Any) -> Any:
    """Return an input of the traced function; a sparse one with its shape as a constant.

    Otherwise the profiler would not know the shape of what is computed from it.
    """
    import tensorflow as tf

    return tf.SparseTensor(*part, value.shape) if isinstance(value, tf.SparseTensor) else part


@cache
def _register_sparse_operations() -> None:
    """Tell TensorFlow's profiler what operations on edges and sparse matrices cost."""
    from tensorflow.python.framework import graph_util, ops

    def shape(graph: Any, name: str) -> Any:
        return graph_util.tensor_shape_from_node_def_name(graph, name)

    @ops.RegisterStatistics("SparseSegmentSumWithNumSegments", "flops")  # type: ignore[untyped-decorator]
    def rows(graph: Any, node: Any) -> Any:
        width, edges = shape(graph, node.input[0]), shape(graph, node.input[1])
        return ops.OpStats("flops", edges[0] * width[1])

    @ops.RegisterStatistics("UnsortedSegmentSum", "flops")  # type: ignore[untyped-decorator]
    def entries(graph: Any, node: Any) -> Any:
        return ops.OpStats("flops", shape(graph, node.input[0]).num_elements())

    @ops.RegisterStatistics("SparseTensorDenseMatMul", "flops")  # type: ignore[untyped-decorator]
    def product(graph: Any, node: Any) -> Any:
        entries, dense = shape(graph, node.input[1]), shape(graph, node.input[3])
        return ops.OpStats("flops", 2 * entries[0] * dense[1])


def latency(forward: Callable[[Any], Any], inputs: Any, repeats: int) -> tuple[float, float]:
    """Return the median and 95th percentile of a batch's latency in milliseconds.

    The time includes copying the inputs to TensorFlow and the outputs back.

    Args:
        forward: A compiled function of the inputs.
        inputs: A batch, in the structure that `forward` takes; sparse tensors are not copied.
        repeats: Number of timed calls, after five warm-up calls.
    """
    import keras
    import tensorflow as tf

    times = []

    def to_tensor(value: Any) -> Any:
        return value if isinstance(value, tf.SparseTensor) else tf.constant(value)

    for call in range(repeats + 5):
        started = time.perf_counter()
        forward(keras.tree.map_structure(to_tensor, inputs)).numpy()
        if call >= 5:
            times.append((time.perf_counter() - started) * 1e3)
    median, p95 = np.percentile(times, [50, 95])
    return float(median), float(p95)


def cost_metrics(
    model: keras.Model,
    dataset: Dataset,
    forward: Callable[[Any], Any],
    *,
    file_bytes: int,
    batch: int,
    repeats: int,
) -> Metrics:
    """Return the cost metrics of a model (`cost/...`); latencies are in milliseconds.

    Args:
        model: A trained model.
        dataset: Its dataset; latencies are measured on its test examples.
        forward: The model, compiled for the dataset (`training.batches.compiled`).
        file_bytes: Size of the model's file.
        batch: Number of examples per call for the batch latency.
        repeats: Number of timed calls for each latency.
    """
    test = dataset.indices("test")
    example = sparse_inputs(dataset) if dataset.kind.whole else dataset.inputs(test[:1])
    single: Any = latency(forward, example, repeats)
    metrics = {
        "cost/parameters": float(model.count_params()),
        "cost/flops": float(flops(model, example)),
        "cost/file_bytes": float(file_bytes),
        "cost/latency_ms_median": single[0],
        "cost/latency_ms_p95": single[1],
    }
    if dataset.kind.whole:
        return metrics  # a batch makes the same call on the whole graph
    batched: Any = latency(forward, dataset.inputs(np.resize(test, batch)), repeats)
    return metrics | {
        "cost/batch_latency_ms_median": batched[0],
        "cost/batch_latency_ms_p95": batched[1],
        "cost/batch_images_per_second": batch / batched[0] * 1e3,
    }
