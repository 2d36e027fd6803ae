"""What a model costs: parameters, floating-point operations, latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.evaluation.scores import Metrics
from chapterflow.kinds.dataset import Dataset
from chapterflow.training.full_batch import forward as whole_forward
from chapterflow.training.full_batch import sparse_inputs

if TYPE_CHECKING:
    import keras


def flops(model: keras.Model, example: Any = None) -> int:
    """Return the floating-point operations of one forward pass of one example.

    TensorFlow's profiler counts the frozen graph; a multiplication and an addition are two.

    Args:
        model: Model of any inputs.
        example: Inputs with a batch axis of 1; needed where the model leaves other axes open.
    """
    import logging

    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if example is None:
        specs = keras.tree.map_structure(
            lambda i: tf.TensorSpec((1, *i.shape[1:]), i.dtype), model.input
        )
    else:
        specs = keras.tree.map_structure(lambda a: tf.TensorSpec(a.shape, a.dtype), example)
    forward = tf.function(lambda values: model(values, training=False))
    graph = convert_variables_to_constants_v2(forward.get_concrete_function(specs)).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the profiler still uses names that it deprecates itself
    try:
        return int(
            profiler.profile(graph, options=options.with_empty_output().build()).total_float_ops
        )
    finally:
        logger.setLevel(level)


def compiled_forward(model: keras.Model, shapes: Any) -> Callable[[Any], Any]:
    """Return a model as one compiled function for batches of any size: traced once for all.

    Args:
        model: Model of any inputs.
        shapes: Shape and dtype of its inputs, in their structure (`Dataset.input_shapes`).
    """
    import tensorflow as tf

    specs = (
        {name: tf.TensorSpec(*one) for name, one in shapes.items()}
        if isinstance(shapes, dict)
        else tf.TensorSpec(*shapes)
    )
    compiled: Callable[[Any], Any] = tf.function(
        lambda values: model(values, training=False), input_signature=[specs]
    )
    return compiled


def latency(forward: Callable[[Any], Any], inputs: Any, repeats: int) -> tuple[float, float]:
    """Return median and 95th percentile of the milliseconds that a batch takes, memory to memory.

    Args:
        forward: A compiled function of the inputs.
        inputs: A batch, in the structure that it takes; sparse tensors are not copied.
        repeats: Timed calls, after five that warm up.
    """
    import keras
    import tensorflow as tf

    times = []

    def sent(value: Any) -> Any:
        return value if isinstance(value, tf.SparseTensor) else tf.constant(value)

    for call in range(repeats + 5):
        started = time.perf_counter()
        forward(keras.tree.map_structure(sent, inputs)).numpy()
        if call >= 5:
            times.append((time.perf_counter() - started) * 1e3)
    median, p95 = np.percentile(times, [50, 95])
    return float(median), float(p95)


def cost_metrics(
    model: keras.Model, dataset: Dataset, *, file_bytes: int, batch: int, repeats: int
) -> Metrics:
    """Return what a model costs by name (`cost/...`); latencies in milliseconds.

    Args:
        model: A trained model.
        dataset: Its dataset; the latencies are those of its test examples.
        file_bytes: Size of its file.
        batch: Examples in a call of the batch latency.
        repeats: Timed calls for a latency.
    """
    test = dataset.indices("test")
    one = dataset.inputs(test[:1])
    if (
        dataset.kind.whole
    ):  # the profiler counts no sparse operation, but this is how such models answer
        single: Any = latency(whole_forward(model), sparse_inputs(dataset), repeats)
    else:
        forward = compiled_forward(model, dataset.input_shapes())
        single = latency(forward, one, repeats)
    metrics = {
        "cost/parameters": float(model.count_params()),
        "cost/flops": float(flops(model, one)),
        "cost/file_bytes": float(file_bytes),
        "cost/latency_ms_median": single[0],
        "cost/latency_ms_p95": single[1],
    }
    if dataset.kind.whole:
        return metrics  # a batch is the same call
    many: Any = latency(forward, dataset.inputs(np.resize(test, batch)), repeats)
    return metrics | {
        "cost/batch_latency_ms_median": many[0],
        "cost/batch_latency_ms_p95": many[1],
        "cost/batch_images_per_second": batch / many[0] * 1e3,
    }
