"""Small datasets of graphs on disk, as tests of validation, training and models need them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import CARD, SPLITS, Dataset, DatasetCard, open_dataset
from chapterflow.kinds.edges import NO_SPLIT, both_ways, offsets


def ring(nodes: int, skip: int) -> NDArray[np.int32]:
    """Return a ring in which every node has edges to the next and to the one `skip` farther."""
    here = np.arange(nodes)
    ends = np.concatenate([(here + 1) % nodes, (here + skip) % nodes])
    return both_ways(np.stack([np.tile(here, 2), ends], axis=1))


def star(nodes: int) -> NDArray[np.int32]:
    """Return a star whose middle is node 0."""
    leaves = np.arange(1, nodes)
    return both_ways(np.stack([np.zeros_like(leaves), leaves], axis=1))


def save(folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]], **card: Any) -> Dataset:
    """Write arrays and a card for them, and open the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    split = arrays["split"]
    counts = {name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)}
    written = DatasetCard(
        name=folder.name,
        kind=kind,
        title="Graphs",
        source="tests",
        licence="CC0",
        counts=counts,
        files={},
        test_digest="0" * 64,
        recipe={},
        **card,
    )
    (folder / CARD).write_text(written.to_json())
    return open_dataset(folder)


def rings_and_stars(folder: Path, count: int = 40) -> Dataset:
    """Return graphs of two classes; each has noise as its third feature, so none are equal."""
    rng = np.random.default_rng(5)
    labels = np.tile([0, 1], count // 2).astype(np.uint8)
    sizes = rng.integers(6, 12, count)
    graphs = [
        ring(int(n), 2) if label == 0 else star(int(n))
        for n, label in zip(sizes, labels, strict=True)
    ]
    features = rng.random((int(sizes.sum()), 3)).astype(np.float32)
    features[0, 0] = 1
    turn = np.arange(count) // 2 % 10
    arrays = {
        "labels": labels,
        "split": np.select([turn == 8, turn == 9], [1, 2], 0).astype(np.uint8),
        "features": features,
        "edges": np.concatenate(graphs),
        "node_offsets": offsets(sizes),
        "edge_offsets": offsets(np.array([len(edges) for edges in graphs])),
    }
    facts = {"directed": False, "nodes": len(features), "edges": len(arrays["edges"])}
    return save(
        folder,
        "graphs",
        arrays,
        shape=[None, 3],
        classes=["ring", "star"],
        value_max=1.0,
        facts=facts,
    )


def two_circles(folder: Path, count: int = 60) -> Dataset:
    """Return one graph of two rings, which are the classes; features are noise and mostly 0."""
    rng = np.random.default_rng(5)
    half = count // 2
    edges = np.concatenate([ring(half, 2), ring(half, 3) + half])
    features = rng.random((count, 20)).astype(np.float32)
    features[rng.random(features.shape) < 0.7] = 0
    features[:, 0] = 1
    turn = np.arange(count) % half % 10
    codes = [0, 1, 2, NO_SPLIT]
    arrays = {
        "labels": np.repeat([0, 1], half).astype(np.uint8),
        "split": np.select([turn < 2, turn < 4, turn < 8, turn >= 8], codes, NO_SPLIT).astype(
            np.uint8
        ),
        "features": features,
        "edges": edges.astype(np.int32),
    }
    facts = {"directed": False, "nodes": count, "edges": len(edges)}
    return save(
        folder,
        "citations",
        arrays,
        shape=[20],
        classes=["left", "right"],
        value_max=1.0,
        facts=facts,
    )
