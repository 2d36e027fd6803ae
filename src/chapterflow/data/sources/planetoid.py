"""One graph in the pickles of Planetoid files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data import pickles
from chapterflow.data.fetch import open_decompressed
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.kinds.edges import NO_SPLIT, both_ways
from chapterflow.types import (
    DatasetBlock,
    PositiveInt,
    RemoteFile,
    Sha256,
)

#: The eight files of a Planetoid dataset, by the end of their name.
PlanetoidFile = Literal["x", "y", "tx", "ty", "allx", "ally", "graph", "test.index"]


class Planetoid(DatasetBlock):
    """One graph in the format of Planetoid (Yang et al. 2016): `ind.<name>.x` and seven others.

    Train are the nodes of `y`, validation the 500 after them, test those of `test.index`, as in
    Kipf & Welling (2017). Nothing that the pickles name is called.

    Attributes:
        name: Name of the dataset in its files' names: `cora`.
        path: A folder on this machine, instead of `mirror` and `upstream`; like an address it is
            no part of the recipe.
        mirror: Folder of the files below `CHAPTERFLOW_MIRROR`; null where no mirror holds them.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        sha256: Hashes of files, by the end of their name; a file without one is taken as it is.
        validation_nodes: Nodes after the train nodes that are for early stopping.
    """

    kind: Literal["planetoid"]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
    path: str | None = None
    mirror: str | None = None
    upstream: list[str] = Field(default_factory=list)
    sha256: dict[PlanetoidFile, Sha256] = Field(default_factory=dict)
    validation_nodes: PositiveInt = 500
    title: Annotated[str, Field(min_length=1)] = "Citations in Planetoid format"
    licence: str = "unknown"


#: The largest file of Planetoid, decompressed, is smaller by far.
MAX_BYTES = 1 << 30
MAX_CLASSES = 256
#: Bounds of a matrix that is written densely. A sparse one may claim any size in a few bytes: what
#: is expected is an entry that is not zero among 256 or more often, unless the matrix is small.
MAX_ENTRIES, SPARSEST, SMALL = 1 << 29, 256, 1 << 24


def read_pickle(path: Path) -> Any:
    """Return what a Planetoid file holds.

    Raises:
        DataError: If it is damaged or names anything but what such files need; nothing has run.
    """
    with open_decompressed(path) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DataError(f"{path.name} must have at most {MAX_BYTES:,} bytes. Received: more")
    try:
        return pickles.read(text)
    except pickles.PickleError as error:
        raise DataError(
            f"{path.name} must be a pickle of arrays, sparse matrices in CSR form, lists or dicts "
            f"of whole numbers, as Planetoid files are. Received: {error}"
        ) from None


def read_matrix(path: Path) -> NDArray[np.float32]:
    """Return a sparse matrix `(n, f)`, dense.

    Raises:
        DataError: If the file does not hold one, or a dense one would be far larger than the file.
    """
    content = read_pickle(path)
    if not isinstance(content, pickles.Matrix):
        raise DataError(
            f"{path.name} must hold a sparse matrix. Received: {type(content).__name__}"
        )
    parts = content.parts
    try:
        arrays = [parts[key] for key in ("data", "indices", "indptr")]
        if any(not isinstance(array, np.ndarray) or array.ndim != 1 for array in arrays):
            raise ValueError("its parts are no arrays of numbers")
        if any(array.dtype.kind not in "iu" for array in arrays[1:]):
            raise ValueError("its places are no whole numbers")
        rows, columns = parts.get("_shape") or parts["shape"]
        if not (isinstance(rows, int) and isinstance(columns, int) and rows > 0 < columns):
            raise ValueError("an impossible shape")
        entries = rows * columns
        dense = max(SMALL, SPARSEST * sum(len(array) for array in arrays))
        if entries > min(MAX_ENTRIES, dense):
            raise ValueError(
                f"{rows:,} x {columns:,} entries, {len(arrays[0]):,} of them not zero; at most "
                f"{min(MAX_ENTRIES, dense):,} entries fit"
            )
        values = arrays[0].astype(np.float32)
        indices, begins = (array.astype(np.int64) for array in arrays[1:])
        # Not by scipy, which trusts `indptr` where its last entry is 0, and reads beyond the data.
        fits = (
            len(begins) == rows + 1
            and begins[0] == 0
            and begins[-1] <= len(indices) == len(values)
            and (np.diff(begins) >= 0).all()
            and (not len(indices) or 0 <= indices.min() <= indices.max() < columns)
        )
        if not fits:
            raise ValueError("parts that do not fit one another")
        matrix, end = np.zeros((rows, columns), np.float32), begins[-1]
        places = np.repeat(np.arange(rows), np.diff(begins)), indices[:end]
        np.add.at(matrix, places, values[:end])
        return matrix
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{path.name} must hold a sparse matrix. Received: {error}") from None


def read_one_hot(path: Path) -> NDArray[Any]:
    """Return one-hot rows `(n, classes)`.

    Raises:
        DataError: If the file holds something else.
    """
    rows = read_pickle(path)
    if (
        not isinstance(rows, np.ndarray)
        or rows.ndim != 2
        or rows.dtype.kind not in "iufb"
        or rows.shape[1] > MAX_CLASSES
    ):
        received = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else ""
        raise DataError(
            f"{path.name} must hold one-hot rows of at most {MAX_CLASSES} classes. "
            f"Received: {received or type(rows).__name__}"
        )
    return rows


def read_neighbours(path: Path) -> NDArray[np.int64]:
    """Return edges `(m, 2)` from a mapping of nodes to their neighbours.

    Raises:
        DataError: If the file holds something else.
    """
    neighbours = read_pickle(path)
    if not isinstance(neighbours, dict):
        raise DataError(
            f"{path.name} must map nodes to lists of nodes. Received: {type(neighbours).__name__}"
        )
    pairs: list[tuple[int, int]] = []
    for node, given in neighbours.items():
        others = given if isinstance(given, list | tuple | np.ndarray) else None
        # Nodes may share one list, which then stands for more neighbours than the file holds.
        if others is not None and len(pairs) + len(others) > pickles.MAX_OPCODES:
            raise DataError(
                f"{path.name} must have at most {pickles.MAX_OPCODES:,} neighbours. Received: more"
            )
        numbers = others.ravel().tolist() if isinstance(others, np.ndarray) else others
        wrong = [None] if numbers is None else [n for n in (node, *numbers) if not _is_node(n)]
        if wrong:
            raise DataError(
                f"{path.name} must map nodes to lists of nodes, by numbers from 0. Received: "
                f"{_shown(given if numbers is None else wrong[0])} at {_shown(node)}"
            )
        pairs += [(node, number) for number in numbers or ()]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _is_node(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _shown(value: Any) -> str:
    """Return a number or a text for a message; what else a pickle holds may be endless."""
    plain = isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 10**40)
    return repr(value)[:40] if plain else f"a {type(value).__name__}"


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
        arrays={
            "labels": one_hot.argmax(axis=1).astype(np.uint8),
            "split": split,
            "features": all_features,
            "edges": edges,
        },
        shape=(features.shape[1],),
        classes=names if len(names) == classes else [str(number) for number in range(classes)],
        # Validation reports values that are not finite.
        value_max=float(np.abs(all_features[np.isfinite(all_features)]).max(initial=0.0)) or 1.0,
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
        and (int(test.max()) + 1) * features.shape[1] <= MAX_ENTRIES
    )
    if not fits:
        raise DataError(f"The files {name}.* must fit one another. Received: {shapes}")
    if train + params.validation_nodes > len(features):
        raise DataError(
            f"{name}.allx must hold the {train} train nodes and {params.validation_nodes} for "
            f"validation. Received: {len(features)}. Lower `validation_nodes`."
        )


#: Nodes for early stopping in the split of Kipf & Welling (2017).
USUAL_NODES = 500


def own(data: UserData) -> dict[str, Any]:
    """Return the block for a folder with the eight files `ind.NAME.*`."""
    data.refuse_shares("planetoid", "the files hold the splits")
    data.need_folder("files ind.NAME.x and so on")
    names = [path.name.split(".")[1] for path in sorted(data.path.glob("ind.*.allx"))]
    if len(names) != 1:
        raise ConfigError(
            f"{data.path} must hold the files ind.NAME.* of one dataset. "
            f"Received: {', '.join(names) or 'none'}"
        )
    block = {"kind": "planetoid", "path": str(data.path), "name": names[0]}
    return block | _few_nodes(data, names[0]) | {"title": data.title or names[0]}


def _few_nodes(data: UserData, name: str) -> dict[str, int]:
    """Return how many nodes are for early stopping, where there are fewer than the usual 500."""
    known = len(read_one_hot(data.path / f"ind.{name}.ally"))
    train = len(read_one_hot(data.path / f"ind.{name}.y"))
    if not 0 < known - train < USUAL_NODES:
        return {}
    data.say(f"The {known - train} labelled nodes that are not for training are for validation.")
    return {"validation_nodes": known - train}


SOURCE = Source("planetoid", Planetoid, "citations", read, own)
