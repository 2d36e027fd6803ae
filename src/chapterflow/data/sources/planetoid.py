"""One graph in the format of Planetoid, with its standard split."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS
from chapterflow.data.compressed import open_decompressed
from chapterflow.data.graph_arrays import NO_SPLIT, both_ways
from chapterflow.data.planetoid import read_matrix, read_neighbours, read_one_hot
from chapterflow.data.source import Fetch, SourceData
from chapterflow.errors import DataError
from chapterflow.settings.datasets_graphs import Planetoid, PlanetoidFile
from chapterflow.settings.types import RemoteFile

#: Class names, where the labels' order is known.
CLASSES = {
    "cora": [
        "Theory",
        "Reinforcement Learning",
        "Genetic Algorithms",
        "Neural Networks",
        "Probabilistic Methods",
        "Case Based",
        "Rule Learning",
    ]
}


def read(params: Planetoid, fetch: Fetch) -> SourceData:
    """Fetch and read the eight files.

    Test nodes stand in the files in the order of `test.index` and go to the places that it names;
    places that it leaves out (Citeseer has some) become nodes without features, in no split.

    Raises:
        DataError: If a file is damaged, is no such file, or does not fit the others.
    """
    files = {end: _place(params, end, fetch) for end in get_args(PlanetoidFile)}
    train, known, tested = (read_one_hot(files[end]) for end in ("y", "ally", "ty"))
    features, test_features = (read_matrix(files[end]) for end in ("allx", "tx"))
    test = _test_index(files["test.index"])
    _check(params, len(train), known, tested, features, test_features, test)
    count = int(test.max()) + 1
    all_features = np.zeros((count, features.shape[1]), np.float32)
    one_hot = np.zeros((count, known.shape[1]))
    all_features[: len(features)], all_features[test] = features, test_features
    one_hot[: len(known)], one_hot[test] = known, tested
    split = np.full(count, NO_SPLIT, np.uint8)
    split[: len(train)] = SPLITS.index("train")
    split[len(train) : len(train) + params.validation_nodes] = SPLITS.index("validation")
    split[test] = SPLITS.index("test")
    pairs = read_neighbours(files["graph"])
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= count):
        raise DataError(
            f"{files['graph'].name} must name nodes 0 to {count - 1}. "
            f"Received: {pairs.min()} to {pairs.max()}"
        )
    edges = both_ways(pairs)
    names = CLASSES.get(params.name, [])
    classes = one_hot.shape[1]
    return SourceData(
        kind="citations",
        arrays={
            "labels": one_hot.argmax(axis=1).astype(np.uint8),
            "split": split,
            "features": all_features,
            "edges": edges,
        },
        shape=(features.shape[1],),
        classes=names if len(names) == classes else [str(number) for number in range(classes)],
        value_max=float(np.abs(all_features).max(initial=0.0)) or 1.0,
        title=params.title,
        source=f"Planetoid (Yang et al. 2016): {params.name}",
        licence=params.licence,
        facts={
            "directed": False,
            "nodes": count,
            "edges": len(edges),
            "features": f"words of the text ({features.shape[1]})",
        },
    )


def _place(params: Planetoid, end: PlanetoidFile, fetch: Fetch) -> Path:
    name = f"ind.{params.name}.{end}"
    if params.path is not None:
        return Path(params.path).expanduser() / name
    return fetch(RemoteFile(name=name, sha256=params.sha256.get(end)))


def _test_index(path: Path) -> NDArray[np.intp]:
    with open_decompressed(path) as file:
        lines = file.read(64 << 20).decode("latin1").split()
    try:
        test = np.array([int(line) for line in lines], np.intp)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path.name} must hold a number a line. Received: {error}") from None
    if not len(test) or test.min() < 0 or len(np.unique(test)) != len(test):
        raise DataError(f"{path.name} must hold numbers of nodes, each once.")
    return test


def _check(
    params: Planetoid,
    train: int,
    known: NDArray[np.intp],
    tested: NDArray[np.intp],
    features: NDArray[np.float32],
    test_features: NDArray[np.float32],
    test: NDArray[np.intp],
) -> None:
    """Refuse files that do not fit one another."""
    name = f"ind.{params.name}"
    shapes = {
        "allx": features.shape,
        "ally": known.shape,
        "tx": test_features.shape,
        "ty": tested.shape,
        "test.index": test.shape,
    }
    fits = (
        len(features) == len(known)
        and len(test_features) == len(tested) == len(test)
        and features.shape[1] == test_features.shape[1]
        and known.shape[1] == tested.shape[1] >= 2
        and test.min() >= len(features)
        and test.max() < len(features) + 10 * len(test)
    )
    if not fits:
        raise DataError(f"The files {name}.* must fit one another. Received: {shapes}")
    if train + params.validation_nodes > len(features):
        raise DataError(
            f"{name}.allx must hold the {train} train nodes and {params.validation_nodes} for "
            f"validation. Received: {len(features)}. Lower `validation_nodes`."
        )
