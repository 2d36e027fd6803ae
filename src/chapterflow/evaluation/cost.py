"""What a model costs: parameters, floating-point operations, latency."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.evaluation.metrics import Metrics

if TYPE_CHECKING:
    import keras


def flops(model: keras.Model) -> int:
    """Return the floating-point operations of one forward pass of one example.

    TensorFlow's profiler counts the frozen graph; a multiplication and an addition are two.
    """
    import logging

    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    shape = (1, *model.inputs[0].shape[1:])
    forward = tf.function(lambda values: model(values, training=False))
    graph = convert_variables_to_constants_v2(
        forward.get_concrete_function(tf.TensorSpec(shape, model.inputs[0].dtype))
    ).graph
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


def latency(model: keras.Model, batch: int, repeats: int) -> tuple[float, float]:
    """Return median and 95th percentile of the milliseconds that a batch takes, memory to memory.

    Args:
        model: Model of any input shape.
        batch: Examples in a call.
        repeats: Timed calls, after five that warm up.
    """
    import tensorflow as tf

    shape = (batch, *model.inputs[0].shape[1:])
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    forward = tf.function(lambda inputs: model(inputs, training=False))
    times = []
    for call in range(repeats + 5):
        started = time.perf_counter()
        forward(tf.constant(values)).numpy()
        if call >= 5:
            times.append((time.perf_counter() - started) * 1e3)
    median, p95 = np.percentile(times, [50, 95])
    return float(median), float(p95)


def cost_metrics(model: keras.Model, *, file_bytes: int, batch: int, repeats: int) -> Metrics:
    """Return what a model costs by name (`cost/...`); latencies in milliseconds."""
    single: Any = latency(model, 1, repeats)
    many: Any = latency(model, batch, repeats)
    return {
        "cost/parameters": float(model.count_params()),
        "cost/flops": float(flops(model)),
        "cost/file_bytes": float(file_bytes),
        "cost/latency_ms_median": single[0],
        "cost/latency_ms_p95": single[1],
        "cost/batch_latency_ms_median": many[0],
        "cost/batch_latency_ms_p95": many[1],
        "cost/batch_images_per_second": batch / many[0] * 1e3,
    }
