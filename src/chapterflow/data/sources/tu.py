"""Graphs in the text format of the TU collection."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.archive import extract_zip
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.data.splits import grouped_split
from chapterflow.errors import ConfigError, DataError
from chapterflow.files import open_regular
from chapterflow.kinds.dataset import SPLITS
from chapterflow.kinds.edges import check_counts, content_hash, offsets
from chapterflow.types import FolderOrArchive, Seed, SplitShare


class Tu(FolderOrArchive):
    """Graphs in the text format of the TU collection (Morris et al. 2020), zip archive or folder.

    Attributes:
        name: Name of the dataset, with which its files begin; null takes the only one.
        directed: Whether edges have a direction. If not, each must be listed both ways.
        validation: Share of all graphs for early stopping.
        test: Share of all graphs held out for evaluation.
        seed: Seed of the splits. Equal graphs get into the same split.
    """

    kind: Literal["tu"]
    seed: Seed
    name: str | None = None
    directed: bool = False
    validation: SplitShare = 0.1
    test: SplitShare = 0.2
    title: Annotated[str, Field(min_length=1)] = "Graphs in TU format"
    licence: str = "unknown"


MAX_CLASSES = 256


def read(params: Tu, fetch: Fetch) -> SourceData:
    """Read a zip archive or a folder.

    Features are the node labels, one-hot, then the node attributes; where there are neither, a 1.

    Raises:
        DataError: If a file is missing, damaged, or contradicts the others.
    """
    place = fetch(params.file) if params.file else Path(params.path or ".").expanduser()
    if place.is_dir():
        return _read(place, params)
    if not place.is_file():
        raise DataError(f"`path` must be a folder or a zip archive. Received: {place}")
    with tempfile.TemporaryDirectory() as temporary:
        extract_zip(place, Path(temporary), **params.unpacking)
        return _read(Path(temporary), params)


def _read(folder: Path, params: Tu) -> SourceData:
    start = _start(folder, params.name)
    name = start.name
    indicator = _integers(start, "graph_indicator")[:, 0]
    labels, classes = _classes(_integers(start, "graph_labels"), f"{name}_graph_labels.txt")
    if (np.diff(indicator) < 0).any() or not len(indicator):
        raise DataError(f"{name}_graph_indicator.txt must list graphs in ascending order.")
    if indicator[0] < 1 or indicator[-1] > len(labels):
        raise DataError(
            f"{name}_graph_indicator.txt must name graphs 1 to {len(labels)}. "
            f"Received: {indicator[0]} to {indicator[-1]}"
        )
    sizes = np.bincount(indicator - 1, minlength=len(labels))
    features, attributes, facts = _features(start, len(indicator))
    edges, edge_counts = _edges(start, indicator, offsets(sizes))
    node_offsets, edge_offsets = offsets(sizes), offsets(edge_counts)
    contents = [
        content_hash(
            features[node_offsets[g] : node_offsets[g + 1]],
            edges[edge_offsets[g] : edge_offsets[g + 1]],
        )
        for g in range(len(labels))
    ]
    split = grouped_split(
        labels,
        contents,
        validation=params.validation,
        test=params.test,
        seed=params.seed,
        classes=classes,
    )
    in_train = split[indicator - 1] == SPLITS.index("train")
    return SourceData(
        arrays={
            "labels": labels,
            "split": split,
            "features": features,
            "edges": edges,
            "node_offsets": node_offsets,
            "edge_offsets": edge_offsets,
        },
        shape=(None, features.shape[1]),
        classes=classes,
        value_max=float(np.nanmax(np.abs(features), initial=0.0)) or 1.0,
        title=params.title,
        source=f"TU collection (Morris et al. 2020): {name}",
        licence=params.licence,
        facts=facts
        | {"directed": params.directed, "nodes": len(indicator), "edges": len(edges)}
        | _scales(features[in_train], attributes),
    )


def _start(folder: Path, name: str | None) -> Path:
    """Return folder and name with which the files of the dataset begin."""
    files = sorted(folder.rglob(f"{name or '*'}_graph_indicator.txt"))
    if len(files) != 1:
        raise DataError(
            f"A TU dataset must have one {name or 'NAME'}_graph_indicator.txt. Received: "
            f"{', '.join(path.name for path in files) or 'none'}. Set `name` to choose."
        )
    return files[0].with_name(files[0].name.removesuffix("_graph_indicator.txt"))


def _file(start: Path, what: str) -> Path:
    return start.with_name(f"{start.name}_{what}.txt")


def _numbers(start: Path, what: str) -> NDArray[np.float64]:
    """Return the numbers of a file, `(lines, columns)`."""
    import pandas as pd

    path = _file(start, what)
    try:
        with open_regular(path) as file:
            read = pd.read_csv(file, header=None, skipinitialspace=True, skip_blank_lines=True)
    except FileNotFoundError:
        raise DataError(f"A TU dataset must have {path.name}. Received: none") from None
    except pd.errors.EmptyDataError:
        return np.zeros((0, 2))
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} must hold numbers with commas between them. "
            f"Received: {' '.join(str(error).split())}"
        ) from None
    values = np.empty(read.shape)
    for place, column in enumerate(read):
        texts = read[column]
        # Whole numbers beyond 64 bits come as objects, and words of truth as numbers.
        try:
            numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        except OverflowError:
            raise DataError(
                f"{path.name} must hold numbers of 64 bits. Received: one of hundreds of digits in "
                f"column {place + 1}"
            ) from None
        words = np.isnan(numbers) & texts.notna().to_numpy()
        wrong = np.flatnonzero(words | pd.api.types.is_bool_dtype(texts))
        if wrong.size:
            raise DataError(
                f"{path.name} must hold numbers with commas between them. "
                f"Received: {str(texts.iloc[wrong[0]])[:60]!r} in line {_line(path, wrong[0])}"
            )
        values[:, place] = numbers
    return values


def _line(path: Path, row: int | np.intp) -> int:
    """Return the line of a row, as editors count: blank lines are no rows."""
    with open_regular(path) as file:
        lines = (number for number, line in enumerate(file, 1) if line.strip())
        return next(itertools.islice(lines, int(row), None), int(row) + 1)


def _integers(start: Path, what: str) -> NDArray[np.int64]:
    values = _numbers(start, what)
    whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**53)
    if not whole.all():
        line = int(np.flatnonzero(~whole.all(axis=1))[0])
        raise DataError(
            f"{_file(start, what).name} must hold whole numbers. "
            f"Received: {values[line].tolist()[:5]} in line {_line(_file(start, what), line)}"
        )
    return values.astype(np.int64)


def _classes(values: NDArray[np.int64], file: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Return class numbers from 0 and the names of the classes: the labels of the file."""
    names, labels = np.unique(values[:, 0], return_inverse=True)
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{file} must hold 2 to {MAX_CLASSES} classes. Received: {len(names)}")
    return labels.astype(np.uint8), [str(name) for name in names]


def _scales(features: NDArray[np.float32], attributes: int) -> dict[str, list[float]]:
    """Return mean and deviation of the features; 0 and 1 except for the last `attributes`.

    Attributes are measured in units of their own: divided by one largest value, those in small
    units would vanish. One-hot labels share one unit.
    """
    if not attributes:
        return {}
    measured = features[:, -attributes:].astype(np.float64)
    # Validation reports values that are not finite.
    measured = np.ma.masked_invalid(measured)
    plain = features.shape[1] - attributes
    spread = measured.std(axis=0).filled(1.0)
    return {
        "centre": [0.0] * plain + measured.mean(axis=0).filled(0.0).tolist(),
        "spread": [1.0] * plain + np.where(spread > 0, spread, 1.0).tolist(),
    }


def _features(start: Path, nodes: int) -> tuple[NDArray[np.float32], int, dict[str, str]]:
    """Return features `(nodes, f)`, how many of the last are attributes, and what they are."""
    parts, said, measured = [], [], 0
    if _file(start, "node_labels").exists():
        labels = _integers(start, "node_labels")
        check_counts(_file(start, "node_labels").name, len(labels), nodes, "node")
        for column in labels.T:
            values, places = np.unique(column, return_inverse=True)
            parts.append(np.eye(len(values), dtype=np.float32)[places])
        said.append(f"node labels, one-hot ({sum(part.shape[1] for part in parts)})")
    if _file(start, "node_attributes").exists():
        attributes = _numbers(start, "node_attributes")
        check_counts(_file(start, "node_attributes").name, len(attributes), nodes, "node")
        # Validation reports values that are not finite in the file itself.
        huge = np.isfinite(attributes) & (np.abs(attributes) > np.finfo(np.float32).max)
        if huge.any():
            row, column = (int(place[0]) for place in np.nonzero(huge))
            path = _file(start, "node_attributes")
            raise DataError(
                f"{path.name} must hold numbers below 3.4e38. "
                f"Received: {attributes[row, column]:g} in line {_line(path, row)}"
            )
        parts.append(attributes.astype(np.float32))
        measured = attributes.shape[1]
        said.append(f"node attributes ({measured})")
    if not parts:
        return np.ones((nodes, 1), np.float32), 0, {"features": "none: a 1 for each node"}
    return np.concatenate(parts, axis=1), measured, {"features": ", then ".join(said)}


def _edges(
    start: Path, indicator: NDArray[np.int64], begins: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return edges sorted by graph, numbered within it, and how many each graph has."""
    pairs = _integers(start, "A")
    name = _file(start, "A").name
    if pairs.shape[1] != 2:
        raise DataError(f"{name} must have two columns. Received: {pairs.shape[1]}")
    nodes = len(indicator)
    outside = ((pairs < 1) | (pairs > nodes)).any(axis=1)
    if outside.any():
        line = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{name} must name nodes 1 to {nodes:,}. "
            f"Received: {pairs[line].tolist()} in line {_line(_file(start, 'A'), line)}"
        )
    pairs = pairs - 1
    graphs = indicator[pairs] - 1
    across = graphs[:, 0] != graphs[:, 1]
    if across.any():
        line = int(np.flatnonzero(across)[0])
        raise DataError(
            f"Edges of {name} must not leave their graph. "
            f"Received: {(pairs[line] + 1).tolist()} in line {_line(_file(start, 'A'), line)}"
        )
    # Self-loops, repeats and one-way edges stay, so that validation reports them.
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, graphs = pairs[order], graphs[order, 0]
    local = pairs - begins[graphs][:, None]
    return local.astype(np.int32), np.bincount(graphs, minlength=len(begins) - 1)


def own(data: UserData) -> dict[str, Any]:
    """Return the block for a folder of TU files, or a `.zip` archive of one."""
    if data.path.is_file():
        data.file(".zip")
    elif not list(data.path.rglob("*_graph_indicator.txt")):
        raise ConfigError(
            f"{data.path} must hold the files of one TU dataset (NAME_A.txt, "
            "NAME_graph_indicator.txt, NAME_graph_labels.txt). Received: no "
            "NAME_graph_indicator.txt"
        )
    block: dict[str, Any] = {"kind": "tu", "seed": data.seed, "path": str(data.path)}
    if data.directed:
        block["directed"] = True
    block |= data.encoding() | data.shares()
    return block | {"title": data.title or data.path.name.removesuffix(".zip")}


SOURCE = Source("tu", Tu, "graphs", read, own)
