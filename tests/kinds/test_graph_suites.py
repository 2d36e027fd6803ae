"""Every mistake in graphs is caught by the check that is meant for it, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import DataError
from chapterflow.kinds import citations
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.edges import GraphExpectations, edge_checks
from chapterflow.validation import validate as run
from tests.graphs import rings_and_stars, two_circles
from tests.kinds.suites import broken_checks

BOUNDS = GraphExpectations(class_divergence=0.05, duplicates=0.02, isolated=0.2, value_use=0.9)
Arrays = dict[str, Any]


def failed(dataset: Dataset, change: Callable[[Arrays], None]) -> set[str]:
    """Return the names of the checks that a change of the arrays breaks."""
    arrays = {name: np.array(array) for name, array in dataset.arrays.items()}
    change(arrays)
    return broken_checks(replace(dataset, arrays=arrays), BOUNDS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return rings_and_stars(tmp_path_factory.mktemp("data") / "graphs")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_circles(tmp_path_factory.mktemp("data") / "citations")


@pytest.mark.parametrize("kind", ["many", "one"])
def test_clean_graphs_pass(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    dataset = request.getfixturevalue(kind)
    verdict = run.validate_dataset(dataset, BOUNDS, tmp_path / "out")
    assert verdict.success, [r for r in verdict.results if not r.passed]
    assert (tmp_path / "out" / "index.html").is_file()


def nan(a: Arrays) -> None:
    a["features"][4, 1] = np.nan


def infinite(a: Arrays) -> None:
    a["features"][4, 1] = np.inf


def too_large(a: Arrays) -> None:
    a["features"][4, 1] = -1.5


def scaled(a: Arrays) -> None:
    a["features"] /= 255


def doubles(a: Arrays) -> None:
    a["features"] = a["features"].astype(np.float64)


def a_feature_more(a: Arrays) -> None:
    a["features"] = np.pad(a["features"], ((0, 0), (0, 1)))


def numbered_from_one(a: Arrays) -> None:
    a["edges"][0, 1] = 10_000


def negative_end(a: Arrays) -> None:
    a["edges"][-1, 0] = -1


def self_loop(a: Arrays) -> None:
    # 0-1 both ways become a self-loop each, of different nodes.
    edges = a["edges"]
    first = edges[0].copy()
    back = np.flatnonzero((edges == first[::-1]).all(axis=1))[0]
    edges[0], edges[back] = first[0], first[1]


def one_way(a: Arrays) -> None:
    # Node 0 trades its edge to the last node that it has for one that it has not.
    edges = a["edges"]
    first = edges[: a["edge_offsets"][1]] if "edge_offsets" in a else edges
    taken = first[first[:, 0] == 0, 1]
    edges[0, 1] = next(node for node in range(1, 6) if node not in taken)


def repeated(a: Arrays) -> None:
    edges = a["edges"]
    back = np.flatnonzero((edges == edges[0][::-1]).all(axis=1))[0]
    edges[0], edges[back] = edges[1], edges[1][::-1]


def wrong_label(a: Arrays) -> None:
    a["labels"][3] = 7


def unbalanced(a: Arrays) -> None:
    train = np.flatnonzero(a["split"] == 0)
    a["labels"][train] = 0
    a["labels"][train[:2]] = 1


def wrong_split(a: Arrays) -> None:
    a["split"][np.flatnonzero(a["split"] == 0)[0]] = 9


def moved(a: Arrays) -> None:
    a["split"][np.flatnonzero(a["split"] == 0)[0]] = 2


SHARED: list[tuple[Callable[[Arrays], None], set[str]]] = [
    (nan, {"finite"}),
    (infinite, {"finite"}),
    (too_large, {"value-range"}),
    (scaled, {"value-use"}),
    (doubles, {"dtype"}),
    (a_feature_more, {"width"}),
    (self_loop, {"self-loops"}),
    (repeated, {"repeated-edges"}),
    (wrong_label, {"label-set"}),
    (unbalanced, {"class-balance-train"}),
    (wrong_split, {"split-names", "count-train"}),
    (moved, {"count-train", "count-test"}),
]


@pytest.mark.parametrize(("mistake", "checks"), SHARED, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("kind", ["many", "one"])
def test_a_mistake_breaks_its_check(
    kind: str,
    mistake: Callable[[Arrays], None],
    checks: set[str],
    request: pytest.FixtureRequest,
) -> None:
    assert failed(request.getfixturevalue(kind), mistake) == checks


@pytest.mark.parametrize("kind", ["many", "one"])
@pytest.mark.parametrize("mistake", [numbered_from_one, negative_end])
def test_dangling_edges_fail_in_both_directions(
    kind: str, mistake: Callable[[Arrays], None], request: pytest.FixtureRequest
) -> None:
    # What is left of the pair has no way back any more.
    assert failed(request.getfixturevalue(kind), mistake) == {"dangling", "symmetric"}


@pytest.mark.parametrize("kind", ["many", "one"])
def test_edges_in_one_direction_fail(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(kind)
    assert failed(dataset, one_way) == {"symmetric"}
    (reason,) = [c.description for c in edge_checks(dataset.card) if "symmetric" in c.description]
    assert "`data add --directed`" in reason
    directed = dataset.card.model_copy(update={"facts": dataset.card.facts | {"directed": True}})
    assert failed(replace(dataset, card=directed), one_way) == set()


def test_lost_edges_of_graphs_fail(many: Dataset) -> None:
    def lose(a: Arrays) -> None:
        # The star of the second graph loses its rays.
        begin, end = a["edge_offsets"][1:3]
        a["edges"] = np.delete(a["edges"], np.s_[begin:end], axis=0)
        a["edge_offsets"][2:] -= end - begin

    assert failed(many, lose) == {"edges", "isolated"}


def test_lost_edges_of_one_graph_fail(one: Dataset) -> None:
    def lose(a: Arrays) -> None:
        a["edges"] = a["edges"][(a["edges"] >= 30).all(axis=1)]

    assert failed(one, lose) == {"edges", "isolated"}


def test_a_copy_of_a_graph_in_another_split_fails(many: Dataset) -> None:
    def copy(a: Arrays) -> None:
        test = int(np.flatnonzero(a["split"] == 2)[0])
        train = next(
            g
            for g in np.flatnonzero(a["split"] == 0)
            if np.diff(a["node_offsets"])[g] == np.diff(a["node_offsets"])[test]
            and a["labels"][g] == a["labels"][test]
        )
        nodes = a["node_offsets"]
        a["features"][nodes[test] : nodes[test + 1]] = a["features"][
            nodes[train] : nodes[train + 1]
        ]

    assert failed(many, copy) == {"one-split"}


def test_repeated_graphs_fail(many: Dataset) -> None:
    def repeat(a: Arrays) -> None:
        sizes, nodes = np.diff(a["node_offsets"]), a["node_offsets"]
        train = np.flatnonzero((a["split"] == 0) & (a["labels"] == 0))
        same = [g for g in train if sizes[g] == sizes[train[0]]]
        assert len(same) > 1
        for g in same[1:]:
            a["features"][nodes[g] : nodes[g + 1]] = a["features"][
                nodes[same[0]] : nodes[same[0] + 1]
            ]

    assert failed(many, repeat) == {"repeats"}


def test_a_graph_without_nodes_fails(many: Dataset) -> None:
    def empty(a: Arrays) -> None:
        nodes, edges = a["node_offsets"], a["edge_offsets"]
        a["features"] = a["features"][nodes[1] :]
        a["edges"] = a["edges"][edges[1] :]
        nodes[1:] -= nodes[1]
        edges[1:] -= edges[1]

    assert failed(many, empty) == {"nodes", "edges", "not-empty"}


def test_many_copies_of_nodes_across_splits_fail(one: Dataset) -> None:
    def copy(a: Arrays) -> None:
        a["features"][:] = a["features"][0]
        a["edges"] = a["edges"][:0]

    actual = failed(one, copy)
    assert {"one-split", "repeats"} <= actual


def test_offsets_that_do_not_fit_are_refused(many: Dataset) -> None:
    def cut(a: Arrays) -> None:
        a["node_offsets"][-1] -= 1

    with pytest.raises(DataError, match="node_offsets must rise from 0"):
        failed(many, cut)


def test_nodes_in_no_split_are_listed_and_are_not_copies(one: Dataset) -> None:
    rows = citations.rows(one)
    outside = one.split == 3
    assert set(rows.loc[outside, "split"]) == {"none"}
    assert rows.loc[outside, "id"].str.startswith("none/").all()
    assert not rows["in_other_split"].any()
