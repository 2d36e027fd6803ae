"""Importance of nodes: as if they had never been there, and only where it can matter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.models.catalog import get_model
from tests.graphs import rings_and_stars, two_circles

pytestmark = pytest.mark.usefixtures("tensorflow")


def built(name: str, dataset: Any, **options: Any) -> Any:
    """Build a model and move its weights off those that it begins with."""
    import keras

    entry = get_model(name)
    keras.utils.set_random_seed(5)
    model = entry.build(entry.params(role="any", **options), dataset.card.input_spec)
    rng = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    return model


def subgraph(features: Any, edges: Any, nodes: Any) -> dict[str, Any]:
    """Return a graph without the other nodes."""
    inside = edges[np.isin(edges, nodes).all(axis=1)]
    return {
        "features": features[nodes],
        "edges": np.searchsorted(nodes, inside).astype(np.int32),
    }


def test_a_graph_without_a_node_is_answered_as_if_the_node_had_never_been(tmp_path: Path) -> None:
    from chapterflow.explain.nodes import node_probes

    data = rings_and_stars(tmp_path / "graphs")
    model = built("gcn", data, width=8, dense=8)
    wrapped, (probe,) = node_probes(model, data, np.array([3]))
    kept = np.ones((2, len(probe.nodes)), bool)
    kept[1, [0, 2]] = False
    rest = np.flatnonzero(kept[1])
    smaller = subgraph(probe.features, probe.edges, rest) | {
        "sizes": np.array([len(rest)], np.int32)
    }
    result = wrapped.logits([(probe, kept)])
    np.testing.assert_allclose(result[1], np.asarray(model(smaller))[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        result[0], np.asarray(model(data.inputs(np.array([3]))))[0], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(result[0], result[1], atol=1e-3)


def test_the_neighbourhood_of_a_node_gives_the_answer_of_the_whole_graph(tmp_path: Path) -> None:
    from chapterflow.explain.nodes import node_probes

    data = two_circles(tmp_path / "circles")
    model = built("gcn-node", data)
    chosen = np.array([5, 40])
    whole = np.asarray(model(data.inputs(chosen)))
    wrapped, probes = node_probes(model, data, chosen)
    for probe, node in zip(probes, chosen, strict=True):
        assert len(probe.nodes) < 30
        assert not probe.free[probe.focus]
        kept = np.ones((3, len(probe.nodes)), bool)
        gone = np.flatnonzero(probe.free)[:2]
        kept[1, gone] = False
        out = wrapped.logits([(probe, kept)])
        np.testing.assert_allclose(out[0], whole[node], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out[2], out[0], rtol=1e-4, atol=1e-5)
        rest = np.setdiff1d(np.arange(data.count), probe.nodes[gone])
        given = data.inputs(chosen)
        smaller = subgraph(given["features"], given["edges"], rest)
        expected = np.asarray(model(smaller))[int(np.flatnonzero(rest == node)[0])]
        np.testing.assert_allclose(out[1], expected, rtol=1e-4, atol=1e-5)


def test_both_methods_agree_where_a_model_is_blind_to_edges_and_linear(tmp_path: Path) -> None:
    """A sum over nodes of a dense layer: the fall of the logit is the node's own share of it."""
    import keras
    from keras import layers

    from chapterflow.explain.nodes import gradient_input, node_occlusion, node_probes
    from chapterflow.models.layers.graph_convolution import Readout

    data = rings_and_stars(tmp_path / "graphs")
    features = keras.Input((3,), name="features")
    edges = keras.Input((2,), dtype="int32", name="edges")
    sizes = keras.Input((), dtype="int32", name="sizes")
    logits = layers.Dense(2, name="logits")(Readout("sum")([features, sizes]))
    inputs = {"features": features, "edges": edges, "sizes": sizes}
    model = keras.Model(inputs, logits)
    wrapped, (probe,) = node_probes(model, data, np.array([4]))
    expected = probe.features @ np.asarray(model.get_layer("logits").kernel)[:, 1]
    for method in (node_occlusion, gradient_input):
        (actual,) = method(wrapped, [probe], [1])
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gcn", "gcn-node"])
def test_what_is_kept_of_the_graphs_depends_on_neither_features_nor_weights(
    name: str, tmp_path: Path
) -> None:
    from chapterflow.explain.nodes import node_occlusion, node_probes
    from chapterflow.explain.sanity import randomised, weighted_layers

    data = (rings_and_stars if name == "gcn" else two_circles)(tmp_path / "data")
    model = built(name, data)
    chosen, targets = np.array([3, 8]), [0, 1]
    used, probes = node_probes(model, data, chosen)
    first = node_occlusion(used, probes, targets)
    noisy = [probe.with_noise(10.0, 5) for probe in probes]
    with randomised(weighted_layers(model)[:1], 5):
        actual = node_occlusion(used, noisy, targets)
        expected = node_occlusion(node_probes(model, data, chosen)[0], noisy, targets)
    for before, now, fresh in zip(first, actual, expected, strict=True):
        np.testing.assert_array_equal(now, fresh)
        assert not np.allclose(before, now, atol=1e-4)


@pytest.mark.parametrize("name", ["gcn", "gcn-node"])
def test_all_of_it(name: str, tmp_path: Path) -> None:
    from matplotlib import image

    from chapterflow.explain.explain import explain

    data = (rings_and_stars if name == "gcn" else two_circles)(tmp_path / "data")
    model = built(name, data)
    before = [np.array(weight) for weight in model.weights]
    result = explain(model, data, tmp_path / "out", seed=5, title=name)
    assert all(np.array_equal(a, b) for a, b in zip(model.weights, before, strict=True))
    assert [one.key for one in result.pictures] == ["nodes"]
    assert image.imread(result.pictures[0].path)[..., :3].std() > 0.02
    assert {key.split("/")[1] for key in result.metrics} == {"node-occlusion", "gradient-x-input"}
    assert all(np.isfinite(value) for value in result.metrics.values())
    assert [row["class"] for row in result.details["probes"]] == list(data.card.classes)
    entry = get_model(name)
    fresh = entry.build(entry.params(role="any"), data.card.input_spec)
    refused = explain(fresh, data, tmp_path / "none", seed=5, title=name)
    assert refused.refusal is not None
    assert name in refused.refusal
    assert not refused.pictures
    assert not (tmp_path / "none").exists()


def test_captions_end_before_the_graphs_and_numbers_can_be_read(tmp_path: Path) -> None:
    from PIL import Image

    from chapterflow.explain.canvas import TILES
    from chapterflow.explain.faithfulness import Faithfulness
    from chapterflow.explain.nodes import NodeProbe
    from chapterflow.explain.pictures import draw_nodes

    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]], np.int32)
    probe = NodeProbe(np.eye(4, dtype=np.float32), edges, np.arange(4), np.ones(4, bool))
    faithful = Faithfulness(
        np.array([0.1]), np.array([0.9]), np.full((2, 1), 0.5), np.array([False])
    )
    draw_nodes(
        [probe],
        {"node-occlusion": np.array([[-1.0, 0.0, 0.0, 0.0]])},
        "gcn",
        tmp_path / "nodes.png",
        captions=["graph 0\ntrue: Theory\nmodel: Probabilistic Methods and Theory, 0.17"],
        faithful={"node-occlusion": faithful},
        doubts={},
        seed=5,
    )
    with Image.open(tmp_path / "nodes.png") as picture:
        ((left, top, width, height),) = json.loads(picture.info[TILES])
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[top : top + height, left - 8 : left] == 255).all()
    tile = pixels[top : top + height, left : left + width]
    rows, columns = np.nonzero((tile == (0, 0, 255)).all(axis=-1))
    middle, centre = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    # In the middle of the dark blue node is its number, in white.
    number = tile[middle - 3 : middle + 4, centre - 3 : centre + 4]
    assert (number[..., 2] == 255).all()
    assert number[..., 0].max() > 150
