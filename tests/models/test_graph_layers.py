"""Graph layers compute their formulas, whatever the order of nodes, padding and sparsity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax

pytestmark = pytest.mark.usefixtures("tensorflow")

PROPERTY = settings(
    max_examples=25 if "CHAPTERFLOW_FUZZ" in os.environ else 10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LAYERS = ("gcn", "blind", "gin")
Graph = tuple[NDArray[np.float32], NDArray[np.float32]]


def graph(nodes: int, seed: int, *, directed: bool = False, share: float = 0.4) -> Graph:
    """Return features `(n, 5)` and a raw adjacency `(n, n)`."""
    rng = np.random.default_rng(seed)
    adjacency = (rng.random((nodes, nodes)) < share).astype(np.float32)
    np.fill_diagonal(adjacency, 0)
    if not directed:
        adjacency = np.triu(adjacency) + np.triu(adjacency).T
    return rng.normal(size=(nodes, 5)).astype(np.float32), adjacency


def layer(kind: str, units: int = 4, **options: Any) -> Any:
    import keras

    from chapterflow.models.layers.graph_convolution import GINConvolution, GraphConvolution

    keras.utils.set_random_seed(5)
    if kind == "gin":
        made = GINConvolution(units, **options)
    else:
        made = GraphConvolution(units, neighbours=kind == "gcn", **options)
    made.build([(None, 5), (None, None)])
    # Biases and eps begin at 0, where mistakes with them do not show.
    rng = np.random.default_rng(6)
    made.set_weights([w + rng.normal(0, 0.3, w.shape) for w in made.get_weights()])
    return made


def sparse(array: NDArray[np.float32]) -> Any:
    import tensorflow as tf

    return tf.sparse.from_dense(array)


def kipf_and_welling(x: Any, adjacency: Any, kernel: Any, bias: Any) -> Any:
    """Return equation 2 of the paper, before the activation."""
    with_loops = adjacency + np.eye(len(adjacency))
    root = np.diag(1 / np.sqrt(with_loops.sum(axis=1)))
    return root @ with_loops @ root @ x @ kernel + bias


def test_the_convolution_is_that_of_kipf_and_welling() -> None:
    made, (x, adjacency) = layer("gcn"), graph(7, 1)
    wanted = kipf_and_welling(x, adjacency, *made.get_weights())
    np.testing.assert_allclose(made([x, adjacency]), wanted, rtol=1e-4, atol=1e-5)
    rectified = layer("gcn", activation="relu")
    np.testing.assert_allclose(
        rectified([x, adjacency]), np.maximum(wanted, 0), rtol=1e-4, atol=1e-5
    )


def test_directed_edges_bring_what_lies_at_their_end() -> None:
    made = layer("gcn")
    x = np.eye(3, 5, dtype=np.float32)
    adjacency = np.zeros((3, 3), np.float32)
    adjacency[0, 1] = 1
    kernel, bias = made.get_weights()
    out = np.asarray(made([x, adjacency])) - bias
    # Node 0 has one edge out, node 1 one edge in.
    np.testing.assert_allclose(out[0], kernel[0] / 2**0.5 + kernel[1] / 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out[1], kernel[1] / 2**0.5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out[2], kernel[2], rtol=1e-4, atol=1e-6)


def test_the_isomorphism_convolution_is_that_of_xu() -> None:
    made, (x, adjacency) = layer("gin"), graph(7, 2)
    names = {w.path.split("/", 1)[-1]: np.asarray(w) for w in made.weights}
    eps = next(value for name, value in names.items() if name.endswith("eps"))
    assert eps != 0
    hidden = np.maximum(
        ((1 + eps) * x + adjacency @ x) @ made.hidden.get_weights()[0]
        + made.hidden.get_weights()[1],
        0,
    )
    wanted = hidden @ made.out.get_weights()[0] + made.out.get_weights()[1]
    np.testing.assert_allclose(made([x, adjacency]), wanted, rtol=1e-4, atol=1e-4)


def test_a_normalized_isomorphism_convolution_has_the_batch_normalisation_of_the_paper() -> None:
    made, (x, adjacency) = layer("gin", normalize=True), graph(7, 2)
    for norm in (made.hidden_norm, made.out_norm):
        norm.set_weights([np.ones(4), np.zeros(4), np.zeros(4), np.ones(4)])

    def normal(x: Any) -> Any:
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)

    inner = (1 + np.asarray(made.eps)) * x + adjacency @ x
    hidden = np.maximum(normal(inner @ made.hidden.kernel + made.hidden.bias), 0)
    wanted = normal(hidden @ made.out.kernel + made.out.bias)
    np.testing.assert_allclose(made([x, adjacency], training=True), wanted, rtol=1e-3, atol=1e-4)


def test_the_blind_layer_sees_no_edge() -> None:
    made, (x, adjacency) = layer("blind"), graph(7, 3)
    kernel, bias = made.get_weights()
    np.testing.assert_allclose(made([x, adjacency]), x @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made([x, adjacency]), made([x, 1 - adjacency]))


@pytest.mark.parametrize("kind", ["gcn", "gin"])
def test_gradients_of_undirected_edges_are_those_of_their_matrix(kind: str) -> None:
    import tensorflow as tf

    x, adjacency = graph(7, 4)
    edges = np.argwhere(adjacency).astype(np.int32)
    gradients = []
    for directed, structure in ((True, adjacency), (True, edges), (False, edges)):
        # Fewer units than features and more: the kernel comes before and after the neighbours.
        first = layer(kind, directed=directed, activation="tanh")
        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.sin(first([variable, structure])))
        gradients.append(tape.gradient(total, [variable, *first.trainable_variables]))
    for others in gradients[1:]:
        for expected, actual in zip(gradients[0], others, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [31, 32, 45])
@pytest.mark.parametrize("directed", [True, False])
def test_wide_features_are_summed_like_narrow_ones(width: int, directed: bool) -> None:
    import tensorflow as tf

    from chapterflow.models.layers.graph_convolution import sum_of_neighbours

    _, adjacency = graph(9, 2, directed=directed)
    x = tf.random.stateless_normal((9, width), (5, 5))
    edges = tf.constant(np.argwhere(adjacency), tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = sum_of_neighbours(edges, x, directed)
        score = tf.reduce_sum(total**2)
    np.testing.assert_allclose(total, adjacency @ x, rtol=1e-5, atol=1e-6)
    wanted = 2 * adjacency.T @ (adjacency @ x)
    np.testing.assert_allclose(tape.gradient(score, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("units", [4, 8])
def test_the_order_of_kernel_and_neighbours_does_not_matter(units: int) -> None:
    made, (x, adjacency) = layer("gcn", units), graph(7, 1)
    edges = np.argwhere(adjacency).astype(np.int32)
    wanted = kipf_and_welling(x, adjacency, *made.get_weights())
    for structure in (adjacency, edges):
        np.testing.assert_allclose(made([x, structure]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_the_readout_of_joined_graphs_skips_nodes_after_the_last(mode: str) -> None:
    import tensorflow as tf

    from chapterflow.models.layers.graph_convolution import Readout

    x = np.arange(12, dtype=np.float32).reshape(6, 2) - 5
    sizes = np.array([2, 0, 3, 0], np.int32)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        actual = Readout(mode)([variable, sizes])
        total = tf.reduce_sum(actual)
    reduce = getattr(np, mode)
    none = np.zeros(2)
    wanted = [reduce(x[:2], axis=0), none, reduce(x[2:5], axis=0), none]
    np.testing.assert_allclose(actual, wanted, rtol=1e-6)
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(total, variable)))
    each = {
        "sum": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        "mean": [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3, 0.0],
        "max": [0.0, 1.0, 0.0, 0.0, 1.0, 0.0],
    }
    np.testing.assert_allclose(gradient, np.repeat(each[mode], 2).reshape(6, 2), rtol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    import keras
    import tensorflow as tf

    made = layer(kind, dtype="float64", activation="tanh")
    x, adjacency = (tf.constant(a, tf.float64) for a in graph(6, 4))

    def loss() -> Any:
        return tf.reduce_sum(tf.sin(made([x, adjacency])))

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss()
    gradients = tape.gradient(value, [*made.trainable_variables, x])
    assert keras.backend.backend() == "tensorflow"
    step = 1e-6
    rng = np.random.default_rng(7)
    for variable, gradient in zip(made.trainable_variables, gradients[:-1], strict=True):
        values = np.array(variable)
        for _ in range(4):
            place = tuple(int(rng.integers(side)) for side in values.shape)
            changed = []
            for sign in (1, -1):
                moved = values.copy()
                moved[place] += sign * step
                variable.assign(moved)
                changed.append(float(loss()))
            variable.assign(values)
            wanted = (changed[0] - changed[1]) / (2 * step)
            np.testing.assert_allclose(np.asarray(gradient)[place], wanted, rtol=1e-5, atol=1e-7)
    assert np.abs(np.asarray(gradients[-1])).min() > 0


@PROPERTY
@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 9), kind=st.sampled_from(LAYERS))
def test_convolutions_follow_a_permutation_of_the_nodes(seed: int, nodes: int, kind: str) -> None:
    made, (x, adjacency) = layer(kind), graph(nodes, seed, directed=seed % 2 == 1)
    order = np.random.default_rng(seed).permutation(nodes)
    out = np.asarray(made([x, adjacency]))
    permuted = made([x[order], adjacency[np.ix_(order, order)]])
    np.testing.assert_allclose(permuted, out[order], rtol=1e-4, atol=1e-4)


@PROPERTY
@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["mean", "sum", "max"]))
def test_readouts_do_not_see_the_order_of_nodes_or_the_padding(seed: int, mode: str) -> None:
    from chapterflow.models.layers.graph_convolution import Readout

    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 7, 4)
    x = rng.normal(size=(4, 8, 3)).astype(np.float32)
    out = np.asarray(Readout(mode)([x, sizes.astype(np.int32)]))
    for place, size in enumerate(sizes):
        real = x[place, :size]
        wanted = getattr(np, mode)(real, axis=0) if size else np.zeros(3)
        np.testing.assert_allclose(out[place], wanted, rtol=1e-4, atol=1e-5)
        order = rng.permutation(size)
        x[place, :size] = real[order]
        x[place, size:] = rng.normal(size=(8 - size, 3)) * 100
    again = Readout(mode)([x, sizes.astype(np.int32)])
    np.testing.assert_allclose(again, out, rtol=1e-4, atol=1e-5)


@PROPERTY
@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 9), kind=st.sampled_from(LAYERS))
def test_sparse_and_dense_agree(seed: int, nodes: int, kind: str) -> None:
    made, (x, adjacency) = layer(kind), graph(nodes, seed, directed=seed % 2 == 1)
    x = x * (x > 0)
    dense = np.asarray(made([x, adjacency]))
    np.testing.assert_allclose(made([x, sparse(adjacency)]), dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(made([sparse(x), sparse(adjacency)]), dense, rtol=1e-4, atol=1e-4)


def joined(graphs: list[Graph]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the features and edges of several graphs as those of one graph."""
    first = np.cumsum([0, *(len(x) for x, _ in graphs)])
    edges = [np.argwhere(adjacency) + start for (_, adjacency), start in zip(graphs, first)]  # noqa: B905
    return np.concatenate([x for x, _ in graphs]), np.concatenate(edges).astype(np.int32)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("directed", [False, True])
def test_joined_graphs_are_each_graph_alone(kind: str, directed: bool) -> None:
    import tensorflow as tf

    made = layer(kind)
    graphs = [graph(nodes, nodes, directed=directed) for nodes in (3, 1, 6)]
    alone, gradients = [], []
    for features, adjacency in graphs:
        given = tf.constant(features)
        with tf.GradientTape() as tape:
            tape.watch(given)
            alone.append(made([given, adjacency]))
            value = tf.reduce_sum(tf.sin(alone[-1]))
        gradients.append(tape.gradient(value, given))
    x, edges = joined(graphs)
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        together = made([given, edges])
        value = tf.reduce_sum(tf.sin(together))
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)
    # Of some sums TensorFlow returns the rows that have a gradient.
    actual = tf.convert_to_tensor(tape.gradient(value, given))
    np.testing.assert_allclose(actual, np.concatenate(gradients), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_a_readout_of_joined_graphs_is_that_of_padded_ones(mode: str) -> None:
    from chapterflow.models.layers.graph_convolution import Readout

    rng = np.random.default_rng(5)
    sizes = np.array([3, 0, 5, 0], np.int32)
    x = np.zeros((4, 5, 3), np.float32)
    real = np.arange(5) < sizes[:, None]
    x[real] = rng.normal(size=(8, 3)) - 3  # all below 0: a padding of 0 would be the maximum
    wanted = Readout(mode)([x, sizes])
    after = np.full((2, 3), 100, np.float32)
    actual = Readout(mode)([np.concatenate([x[real], after]), sizes])
    np.testing.assert_allclose(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
def test_a_network_of_matrices_reads_edges(readout: str, tmp_path: Path) -> None:
    """Versions that were logged before graphs were joined take padded graphs."""
    import keras

    from chapterflow.models.layers.graph_convolution import Readout
    from chapterflow.training.batches import load_model

    features = keras.Input((None, 5), name="features")
    adjacency = keras.Input((None, None), name="adjacency")
    sizes = keras.Input((), dtype="int32", name="sizes")
    made = layer("gcn", activation="relu")
    outputs = keras.layers.Dense(2)(Readout(readout)([made([features, adjacency]), sizes]))
    named = {"features": features, "adjacency": adjacency, "sizes": sizes}
    keras.Model(named, outputs, name="earlier").save(tmp_path / "model.keras")
    earlier = keras.saving.load_model(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    assert model.name == "earlier"
    assert set(model.input) == {"features", "edges", "sizes"}
    graphs = [graph(nodes, nodes) for nodes in (3, 6, 1)]
    x, edges = joined(graphs)
    count = np.array([3, 6, 1], np.int32)
    together = np.asarray(model({"features": x, "edges": edges, "sizes": count}))
    for place, (own, matrix) in enumerate(graphs):
        inputs = {"features": own[None], "adjacency": matrix[None], "sizes": count[[place]]}
        np.testing.assert_allclose(earlier(inputs)[0], together[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_network_of_one_matrix_reads_edges(is_sparse: bool) -> None:
    import keras
    import tensorflow as tf

    from chapterflow.training.batches import reads_edges

    features = keras.Input((5,), sparse=is_sparse, name="features")
    adjacency = keras.Input((None,), sparse=is_sparse, name="adjacency")
    made = layer("gcn")
    earlier = keras.Model(
        {"features": features, "adjacency": adjacency}, made([features, adjacency])
    )
    x, matrix = graph(7, 1, directed=True)
    edges = np.argwhere(matrix).astype(np.int32)
    model = reads_edges(earlier)
    expected = earlier({"features": x, "adjacency": matrix})
    np.testing.assert_allclose(
        model({"features": x, "edges": edges}), expected, rtol=1e-4, atol=1e-5
    )
    if is_sparse:
        np.testing.assert_allclose(
            model({"features": sparse(x), "edges": tf.constant(edges)}),
            expected,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_of_padded_graphs_is_each_graph_alone(kind: str) -> None:
    made = layer(kind)
    graphs = [graph(nodes, nodes) for nodes in (3, 6, 1)]
    x = np.zeros((3, 8, 5), np.float32)
    adjacency = np.zeros((3, 8, 8), np.float32)
    for place, (features, edges) in enumerate(graphs):
        x[place, : len(features)] = features
        adjacency[place, : len(edges), : len(edges)] = edges
    out = np.asarray(made([x, adjacency]))
    for place, (features, edges) in enumerate(graphs):
        alone = made([features, edges])
        np.testing.assert_allclose(out[place, : len(features)], alone, rtol=1e-4, atol=1e-5)


def test_rows_are_normalized_and_empty_ones_stay() -> None:
    from chapterflow.models.layers.graph_convolution import RowNormalization

    x = np.array([[1, 0, 3], [0, 0, 0], [0, 5, 0]], np.float32)
    wanted = [[0.25, 0, 0.75], [0, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(RowNormalization()(x), wanted)
    import tensorflow as tf

    np.testing.assert_allclose(tf.sparse.to_dense(RowNormalization()(sparse(x))), wanted)


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.999999, 1.0])
@pytest.mark.parametrize("is_sparse", [True, False])
def test_dropout_keeps_a_share_of_the_features_and_their_mean(rate: float, is_sparse: bool) -> None:
    import tensorflow as tf

    from chapterflow.models.layers.graph_convolution import FeatureDropout

    ones = np.ones((101, 41), np.float32)
    x, dropout = sparse(ones) if is_sparse else tf.constant(ones), FeatureDropout(rate, seed=5)

    def values(training: bool) -> NDArray[np.float32]:
        out = dropout(x, training=training)
        assert isinstance(out, tf.SparseTensor) == is_sparse
        return np.asarray(out.values if is_sparse else out)

    np.testing.assert_array_equal(values(False), np.ravel(ones) if is_sparse else ones)
    first, second = values(True), values(True)
    if rate > 0.99:
        assert not first.any()
        return
    assert set(np.unique(first)) == {0.0, np.float32(1 / (1 - rate))}
    assert np.mean(first > 0) == pytest.approx(1 - rate, abs=0.03)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_saved_model_is_the_same(kind: str, tmp_path: Path) -> None:
    import keras

    from chapterflow.models.layers.graph_convolution import Readout

    features, adjacency = keras.Input((None, 5)), keras.Input((None, None))
    sizes = keras.Input((), dtype="int32")
    made = layer(kind, activation="relu")
    model = keras.Model(
        [features, adjacency, sizes], Readout("max")([made([features, adjacency]), sizes])
    )
    x, edges = graph(6, 8)
    given_inputs = [x[None], edges[None], np.array([6], np.int32)]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(given_inputs), model(given_inputs))
    for before, after in zip(model.layers, loaded.layers, strict=True):
        assert after.get_config() == before.get_config()


def test_an_unknown_readout_is_refused() -> None:
    from chapterflow.models.layers.graph_convolution import Readout

    with pytest.raises(ValueError, match=r"one of mean, sum, max\. Received: 'min'"):
        Readout("min")


def network_by_hand(
    weights: dict[str, NDArray[np.float64]], kind: str, readout: str, x: Any, adjacency: Any
) -> Any:
    """Return the logits of one graph, as PyTorch Geometric's layers compute them too."""
    states, degrees = [], adjacency.sum(axis=1) + 1
    for number in (1, 2, 3):
        own = {
            path.split("/", 1)[1]: value
            for path, value in weights.items()
            if path.startswith(f"conv{number}/")
        }
        if kind == "gin":
            x = (1 + own["eps"]) * x + adjacency @ x
            x = np.maximum(x @ own["hidden/kernel"] + own["hidden/bias"], 0)
            x = x @ own["out/kernel"] + own["out/bias"]
        else:
            if kind == "gcn":
                x = (adjacency + np.eye(len(x))) / np.sqrt(np.outer(degrees, degrees)) @ x
            x = x @ own["kernel"] + own["bias"]
        x = np.maximum(x, 0)
        states.append(x)
    x = getattr(np, readout)(np.concatenate(states, axis=1), axis=0)
    x = np.maximum(x @ weights["dense/kernel"] + weights["dense/bias"], 0)
    return x @ weights["logits/kernel"] + weights["logits/bias"]


def test_dense_layers_begin_with_the_weights_of_pytorch() -> None:
    from chapterflow.models.catalog import get_model
    from chapterflow.training.epochs import built
    from chapterflow.types import InputSpec

    entry = get_model("gcn")
    spec = InputSpec((None, 9), classes=2, value_max=1, kind="graphs", directed=False)
    model = built(entry, entry.params(role="graphs", convolution="gin", width=16), spec, seed=3)
    kernels = [np.asarray(weight) for weight in model.weights if weight.path.endswith("kernel")]
    assert len(kernels) == 8
    for kernel in kernels:
        limit = 1 / np.sqrt(len(kernel))
        assert 0.8 * limit < np.abs(kernel).max() <= limit
    assert not np.array_equal(kernels[2], kernels[3])
    assert all(not np.any(weight) for weight in model.weights if weight.path.endswith("bias"))


@pytest.mark.parametrize(
    ("kind", "readout"), [("gcn", "sum"), ("gcn", "mean"), ("gin", "sum"), ("none", "max")]
)
def test_the_network_and_its_loss_are_those_computed_by_hand(kind: str, readout: str) -> None:
    from chapterflow.models.catalog import get_model
    from chapterflow.training.epochs import Learner, built
    from chapterflow.types import InputSpec

    entry = get_model("gcn")
    # Features of 0 to 2, which the network scales to 0 to 1.
    spec = InputSpec((None, 5), classes=3, value_max=2, kind="graphs", directed=False)
    params = entry.params(role="graphs", convolution=kind, readout=readout, width=8, dense=6)
    model = built(entry, params, spec)
    rng = np.random.default_rng(7)
    weights = {weight.path: rng.normal(0, 0.5, weight.shape) for weight in model.weights}
    model.set_weights(list(weights.values()))
    graphs = [
        (rng.integers(0, 3, x.shape).astype(np.float32), adjacency)
        for x, adjacency in (graph(nodes, nodes) for nodes in (4, 1, 7))
    ]
    wanted = np.stack(
        [network_by_hand(weights, kind, readout, x / 2, adjacency) for x, adjacency in graphs]
    )
    x, edges = joined(graphs)
    inputs = {"features": x, "edges": edges, "sizes": np.array([4, 1, 7], np.int32)}
    np.testing.assert_allclose(model(inputs), wanted, rtol=1e-5, atol=1e-5)

    targets = np.array([2, 0, 1], np.int32)
    learner = Learner(model, params, steps=1, classes=True)
    loss = np.mean([-log_softmax(row)[target] for row, target in zip(wanted, targets, strict=True)])
    np.testing.assert_allclose(learner.validate(inputs, targets)[0] / 3, loss, rtol=1e-5)


@pytest.mark.parametrize("directed", [True, False])
def test_what_depends_on_constants_alone_is_not_compiled(directed: bool) -> None:
    import tensorflow as tf

    from chapterflow.models.layers.graph_convolution import (
        GINConvolution,
        GraphConvolution,
        RowNormalization,
    )

    x = np.array([[1, 0, 2], [0, 0, 0], [0, 3, 1]], np.float32)
    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 1]], np.int32)
    rows = RowNormalization()
    layers = GraphConvolution(4, directed=directed), GINConvolution(4, directed=directed)

    def outputs(features: Any, structure: Any) -> list[Any]:
        normalized = rows(features)
        return [layer([normalized, structure]) for layer in layers]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def of_constants() -> list[Any]:
        values = tf.SparseTensor(np.argwhere(x), x[x != 0], x.shape)
        return outputs(values, tf.constant(edges))

    wanted = outputs(sparse(x), tf.constant(edges))
    for received, known in zip(of_constants(), wanted, strict=True):
        np.testing.assert_array_equal(received, known)
    compiled = of_constants.get_concrete_function().graph
    traced = {operation.type for operation in compiled.get_operations()}
    assert "SparseTensorDenseMatMul" in traced
    assert not traced & {"UnsortedSegmentSum", "DenseBincount", "Rsqrt"}
