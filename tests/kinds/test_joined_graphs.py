"""Batches of graphs are one graph: nothing is padded, and edges stay within their graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.edges import both_ways, offsets, padded
from tests.graphs import rings_and_stars, save, two_circles


def test_the_graphs_of_a_batch_keep_their_nodes_and_edges(tmp_path: Path) -> None:
    data = rings_and_stars(tmp_path / "graphs")
    chosen = np.array([7, 0, 7, 12])
    inputs = data.inputs(chosen)
    nodes, edges = data.arrays["node_offsets"], data.arrays["edge_offsets"]
    start = 0
    own_edges = []
    for place, graph in enumerate(chosen):
        own = data.arrays["features"][nodes[graph] : nodes[graph + 1]]
        assert inputs["sizes"][place] == len(own)
        np.testing.assert_array_equal(inputs["features"][start : start + len(own)], own)
        own_edges.append(data.arrays["edges"][edges[graph] : edges[graph + 1]] + start)
        start += len(own)
    np.testing.assert_array_equal(inputs["edges"], np.concatenate(own_edges))
    for name, (shape, dtype) in data.input_shapes().items():
        assert inputs[name].dtype == dtype
        assert len(inputs[name].shape) == len(shape)


def test_no_graphs_are_a_graph_without_nodes(tmp_path: Path) -> None:
    inputs = rings_and_stars(tmp_path / "graphs").inputs(np.arange(0))
    assert {name: len(array) for name, array in inputs.items()} == {
        "features": 0,
        "edges": 0,
        "sizes": 0,
    }


@pytest.mark.parametrize("build", [rings_and_stars, two_circles])
def test_loops_repeats_and_order_of_edges_do_not_count(build: object, tmp_path: Path) -> None:
    data: Dataset = build(tmp_path / "data")  # type: ignore[operator]
    chosen = data.indices("train")
    expected = data.inputs(chosen)
    edges = np.array(data.arrays["edges"])
    changed = {"edges": np.concatenate([edges[:1], edges])}
    if "edge_offsets" in data.arrays:
        begins = np.array(data.arrays["edge_offsets"])
        # Only the first graph is changed: its edges backwards, one twice, and a loop.
        first = edges[begins[0] : begins[1]]
        messy = np.concatenate([[[2, 2]], first[::-1], first[:1]]).astype(np.int32)
        changed = {
            "edges": np.concatenate([messy, edges[begins[1] :]]),
            "edge_offsets": begins + 2 * (np.arange(len(begins)) > 0),
        }
    actual = replace(data, arrays={**data.arrays, **changed}).inputs(chosen)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_a_few_large_graphs_cost_their_edges(tmp_path: Path) -> None:
    """Padded, this batch would take 400 GB."""
    sizes = np.array([100_000, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    path = both_ways(np.stack([np.arange(99_999), np.arange(1, 100_000)], axis=1))
    pair = np.array([[0, 1], [1, 0]], np.int32)
    data = save(
        tmp_path / "large",
        "graphs",
        {
            "labels": np.tile([0, 1], 5).astype(np.uint8),
            "split": np.zeros(10, np.uint8),
            "features": np.ones((int(sizes.sum()), 1), np.float32),
            "edges": np.concatenate([path, *[pair] * 9]),
            "node_offsets": offsets(sizes),
            "edge_offsets": offsets([len(path), *[2] * 9]),
        },
        shape=[None, 1],
        classes=["a", "b"],
        value_max=1.0,
        facts={"directed": False, "nodes": int(sizes.sum()), "edges": len(path) + 18},
    )
    inputs = data.inputs(np.arange(10))
    assert sum(array.nbytes for array in inputs.values()) < 3_000_000
    assert inputs["edges"][-1].tolist() == [100_017, 100_016]


def test_padded_graphs_are_as_served_models_take_them(tmp_path: Path) -> None:
    data = rings_and_stars(tmp_path / "graphs")
    joined = data.inputs(np.array([3, 4]))
    example = padded(joined)
    largest = int(joined["sizes"].max())
    assert example["features"].shape == (2, largest, 3)
    assert example["adjacency"].shape == (2, largest, largest)
    assert example["adjacency"].sum() == len(joined["edges"])
    shapes = data.served_shapes(data.card)
    assert shapes is not None
    assert set(shapes) == set(data.example())
