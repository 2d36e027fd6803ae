"""What a model costs, counted by hand."""

import dataclasses
import logging
import time
from typing import Any

import numpy as np
import pytest

from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model
from tests.digits import digits_dataset, with_arrays

pytestmark = pytest.mark.usefixtures("tensorflow")

#: Two operations (multiply, add) for each pixel.
RESCALE = 28 * 28 * 2


def image_model(name: str) -> Any:
    entry = get_model(name)
    return entry.build(entry.params(role="digits"), InputSpec((28, 28, 1), 10, 255.0))


def compiled(model: Any) -> Any:
    from chapterflow.training.batches import compiled_forward

    return compiled_forward(model, ((None, 28, 28, 1), "float32"))


def dense(size: int, units: int) -> int:
    """Return operations of a dense layer: a multiplication and an addition each, and the bias."""
    return 2 * size * units + units


def convolution(out_side: int, kernel: int, channels: int, filters: int) -> int:
    return out_side**2 * filters * (2 * kernel**2 * channels + 1)


@pytest.mark.parametrize(("bias", "expected"), [(False, 2 * 20 * 7), (True, 2 * 20 * 7 + 7)])
def test_a_dense_layer(bias: bool, expected: int) -> None:
    import keras

    from chapterflow.evaluation.cost import flops

    inputs = keras.Input((20,))
    assert flops(keras.Model(inputs, keras.layers.Dense(7, use_bias=bias)(inputs))) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dnn", RESCALE + dense(784, 128) + dense(128, 10)),
        (
            "cnn",
            RESCALE
            + convolution(28, 3, 1, 32)
            + 14 * 14 * 32 * 4  # four values of each pool
            + convolution(14, 3, 32, 64)
            + 7 * 7 * 64 * 4
            + dense(3136, 128)
            + dense(128, 10),
        ),
        (
            "lenet5",
            32 * 32 * 2
            + convolution(28, 5, 1, 6)
            + 14 * 14 * 6 * 4
            + convolution(10, 5, 6, 16)
            + 5 * 5 * 16 * 4
            + convolution(1, 5, 16, 120)
            + dense(120, 84)
            + dense(84, 10),
        ),
    ],
)
def test_chapter_models(name: str, expected: int) -> None:
    from chapterflow.evaluation.cost import flops

    assert flops(image_model(name)) == expected


def test_counting_is_quiet_and_leaves_the_log_level(capfd: pytest.CaptureFixture[str]) -> None:
    from chapterflow.evaluation.cost import flops

    model, logger = image_model("dnn"), logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        flops(model)
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("batch", [1, 8])
def test_latency(batch: int) -> None:
    from chapterflow.evaluation.cost import latency

    median, p95 = latency(
        compiled(image_model("dnn")), np.zeros((batch, 28, 28, 1), np.float32), 20
    )
    assert 0 < median <= p95 < 10_000


def test_the_whole_call_is_timed() -> None:
    import tensorflow as tf

    from chapterflow.evaluation.cost import latency

    def forward(images: Any) -> Any:
        time.sleep(0.005 * len(images))
        return tf.reduce_sum(images)

    median, p95 = latency(forward, np.zeros((8, 1), np.float32), 5)
    assert p95 >= median >= 40


def test_costs_by_name() -> None:
    from chapterflow.evaluation.cost import cost_metrics
    from chapterflow.evaluation.scores import check_metrics

    digits = digits_dataset(np.array([0, 1, 2, 2], np.uint8))
    images = np.zeros((4, 28, 28, 1), np.uint8)
    card = digits.card.model_copy(update={"shape": [28, 28, 1]})
    dataset = with_arrays(dataclasses.replace(digits, card=card), images=images)
    model = image_model("cnn")
    costs = cost_metrics(model, dataset, compiled(model), file_bytes=1234, batch=4, repeats=5)
    check_metrics(costs)
    assert costs["cost/parameters"] == 421_642
    assert costs["cost/file_bytes"] == 1234
    assert costs["cost/flops"] == 8_559_274
    assert costs["cost/batch_images_per_second"] == pytest.approx(
        4000 / costs["cost/batch_latency_ms_median"]
    )
    assert set(costs) == {
        "cost/parameters",
        "cost/flops",
        "cost/file_bytes",
        "cost/latency_ms_median",
        "cost/latency_ms_p95",
        "cost/batch_latency_ms_median",
        "cost/batch_latency_ms_p95",
        "cost/batch_images_per_second",
    }


def graph_convolution(product: int, edges: int, nodes: int, units: int) -> int:
    """Return operations of a convolution: product, that of edges and loops, bias."""
    return product + 2 * (edges + nodes) * units + nodes * units


def test_a_whole_graph_counts_its_edges_and_the_entries_of_sparse_features(
    capfd: pytest.CaptureFixture[str],
) -> None:
    import tensorflow as tf

    from chapterflow.evaluation.cost import flops

    nodes, entries, edges = 34, 60, 156
    entry = get_model("gcn-node")
    model = entry.build(entry.params(role="citations"), InputSpec((100,), 2, 1.0))
    places = np.stack([np.arange(entries) % nodes, np.arange(entries)], axis=1)
    features = tf.SparseTensor(places, np.ones(entries, np.float32), (nodes, 100))
    example = {
        "features": tf.sparse.reorder(features),
        "edges": np.sort(np.arange(2 * edges, dtype=np.int32) % nodes).reshape(edges, 2),
    }
    # A comparison and an inverse a node; a product an entry.
    row_sums, normalisation = entries, 2 * nodes + entries
    # Once for both convolutions: a product an edge and a loop; a sum and two operations of the
    # profiler for the root of each degree.
    weights = edges + nodes + 6 * nodes
    assert flops(model, example) == (
        row_sums
        + normalisation
        + weights
        + graph_convolution(2 * entries * 16, edges, nodes, 16)
        + graph_convolution(2 * nodes * 16 * 2, edges, nodes, 2)
    )
    # The profiler writes a line about operations whose shapes it does not know.
    assert "no flops" not in "".join(capfd.readouterr())
